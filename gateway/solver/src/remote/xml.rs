//! The little of XML that storage services answer with: the text of one element.

/// The text of the first element of this name, its five named entities read; `None` without one.
pub fn element(document: &str, name: &str) -> Option<String> {
    let open = format!("<{name}>");
    let (_, behind) = document.split_once(&open)?;
    let (text, _) = behind.split_once(&format!("</{name}>"))?;
    if text.contains('<') {
        return None;
    }
    Some(
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&apos;", "'")
            .replace("&#34;", "\"")
            .replace("&amp;", "&"),
    )
}

/// A text as it stands in an element.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_element_s_text_is_found() {
        let document = "<?xml version=\"1.0\"?><E xmlns=\"x\"><Code>NoSuchKey</Code><ETag>&quot;a&amp;b&quot;</ETag><A><B>c</B></A></E>";
        assert_eq!(element(document, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(element(document, "ETag").as_deref(), Some("\"a&b\""));
        assert_eq!(element(document, "A"), None);
        assert_eq!(element(document, "Missing"), None);
        assert_eq!(element("<Code>never ends", "Code"), None);
    }

    proptest! {
        #[test]
        fn any_document_is_read(document in "\\PC{0,80}|(<Code>|</Code>|&amp;|[a-z]){0,12}") {
            let _ = element(&document, "Code");
        }

        #[test]
        fn what_is_escaped_is_read_back(text in "[a-z&<>\"';]{0,20}") {
            let document = format!("<Key>{}</Key>", escaped(&text));
            prop_assert_eq!(element(&document, "Key"), Some(text));
        }
    }
}
