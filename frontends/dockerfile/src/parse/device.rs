//! `RUN --device=`: a CDI name and whether it is required.

use super::ast::Device;
use gateway_frontend::csv;

use super::suggest;

/// Read a `--device` value.
pub(super) fn parse(text: &str) -> Result<Device, String> {
    let fields = csv::fields(text).map_err(|e| format!("failed to parse csv devices: {e}"))?;
    let mut device = Device::default();
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = gateway_api::parse_bool(value)
                    .ok_or_else(|| format!("invalid value for {key}: {value}"))?;
            }
            ("name", Some(value)) => {
                if !device.name.is_empty() {
                    return Err(format!("device name already set to {}", device.name));
                }
                device.name = value.to_owned();
            }
            _ if device.name.is_empty() => device.name = field,
            (_, None) => {
                return Err(format!("invalid field '{field}' must be a key=value pair"));
            }
            (_, Some(_)) => {
                let text = format!("unexpected key '{key}' in '{field}'");
                return Err(suggest::with_hint(text, &key, ["name", "required"]));
            }
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_field_is_the_name() {
        let device = parse("vendor.com/gpu=all,required").unwrap();
        assert_eq!(device.name, "vendor.com/gpu=all");
        assert!(device.required);
        assert_eq!(
            parse("name=a,name=b").unwrap_err(),
            "device name already set to a"
        );
        assert_eq!(
            parse("a,requird=1").unwrap_err(),
            "unexpected key 'requird' in 'requird=1' (did you mean required?)"
        );
    }
}
