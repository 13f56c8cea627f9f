//! The build query of docker's API as a request of ours.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};

/// The context comes with another request, as clients of 2018 to 2020 send an archive from standard input.
pub const UPLOADED_BEFORE: &str = "upload-request";

/// Where frontends find files of the client.
const UPLOADS: &str = "http://buildkit-session/";
/// What the context is called there.
pub const UPLOAD: &str = "context";

/// Parameters that may be given more than once.
pub struct Query(HashMap<String, Vec<String>>);

/// Clients write the keys in either case.
#[derive(Deserialize)]
struct Output {
    #[serde(rename = "Type", alias = "type")]
    kind: String,
    #[serde(rename = "Attrs", alias = "attrs", default)]
    attrs: Option<BTreeMap<String, String>>,
}

impl Query {
    pub fn of(uri: &http::Uri) -> Query {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        let text = uri.query().unwrap_or_default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            found
                .entry(key.into_owned())
                .or_default()
                .push(value.into_owned());
        }
        Query(found)
    }

    pub fn get(&self, key: &str) -> &str {
        let values = self.0.get(key).and_then(|values| values.first());
        values.map_or("", String::as_str)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn flag(&self, key: &str) -> bool {
        !matches!(
            self.get(key).to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "false" | "none"
        )
    }

    fn parsed<T: Default + for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, String> {
        match self.get(key) {
            // What Go has none of is null.
            "" | "null" => Ok(T::default()),
            json => serde_json::from_str(json).map_err(|error| format!("{key}: {error}")),
        }
    }

    /// The build that a query means.
    ///
    /// # Errors
    /// For what is not understood, or cannot be done.
    pub fn request(&self) -> Result<SolveRequest, String> {
        if self.get("version") != "2" {
            return Err(
                "only version 2 of the builder is here, not the old one: set DOCKER_BUILDKIT=1"
                    .to_owned(),
            );
        }
        let mut attrs = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                attrs.insert(key.to_owned(), value.to_owned());
            }
        };
        put("filename", self.get("dockerfile"));
        put("target", self.get("target"));
        put("platform", self.get("platform"));
        put(
            "force-network-mode",
            match self.get("networkmode") {
                "default" | "bridge" => "",
                other => other,
            },
        );
        put("add-hosts", &hosts(self.all("extrahosts"))?);
        put(
            "shm-size",
            match self.get("shmsize") {
                "0" => "",
                size => size,
            },
        );
        put("cgroup-parent", self.get("cgroupparent"));
        put(
            "image-resolve-mode",
            if self.flag("pull") { "pull" } else { "" },
        );
        match self.get("remote") {
            "client-session" => {}
            "" | UPLOADED_BEFORE => put("context", &format!("{UPLOADS}{UPLOAD}")),
            remote => put("context", remote),
        }
        if self.flag("nocache") {
            attrs.insert("no-cache".to_owned(), String::new());
        }
        let args: BTreeMap<String, Option<String>> = self.parsed("buildargs")?;
        for (key, value) in args {
            if let Some(value) = value {
                attrs.insert(format!("build-arg:{key}"), value);
            }
        }
        let labels: BTreeMap<String, String> = self.parsed("labels")?;
        attrs.extend(
            labels
                .into_iter()
                .map(|(key, value)| (format!("label:{key}"), value)),
        );
        let ulimits: Vec<Ulimit> = self.parsed("ulimits")?;
        if !ulimits.is_empty() {
            let text = ulimits
                .iter()
                .map(|u| format!("{}={}:{}", u.name, u.soft, u.hard));
            attrs.insert("ulimit".to_owned(), text.collect::<Vec<_>>().join(","));
        }
        let mut entitlements = Vec::new();
        if attrs
            .get("force-network-mode")
            .is_some_and(|mode| mode == "host")
        {
            entitlements.push("network.host".to_owned());
        }
        let cache: Vec<String> = self.parsed("cachefrom")?;
        let imports = cache.into_iter().map(|name| CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs: BTreeMap::from([("ref".to_owned(), name)]),
        });
        let imports: Vec<CacheOptionsEntry> = imports.collect();
        let mut exports = Vec::new();
        if attrs
            .get("build-arg:BUILDKIT_INLINE_CACHE")
            .is_some_and(|flag| flag == "1")
        {
            exports.push(CacheOptionsEntry {
                r#type: "inline".to_owned(),
                ..CacheOptionsEntry::default()
            });
        }
        Ok(SolveRequest {
            session: self.get("session").to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: attrs,
            exporters: self.exporters()?,
            entitlements,
            cache: Some(CacheOptions {
                imports,
                exports,
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        })
    }

    fn exporters(&self) -> Result<Vec<Exporter>, String> {
        let outputs: Vec<Output> = self.parsed("outputs")?;
        if outputs.len() > 1 {
            return Err("multiple outputs not supported".to_owned());
        }
        let names = self.all("t").join(",");
        let mut exporters: Vec<Exporter> = outputs
            .into_iter()
            .filter(|output| output.kind != "cacheonly")
            .map(|output| Exporter {
                r#type: output.kind,
                attrs: output.attrs.unwrap_or_default(),
            })
            .collect();
        if exporters.is_empty() && self.get("outputs").is_empty() {
            exporters.push(Exporter {
                r#type: "moby".to_owned(),
                ..Exporter::default()
            });
        }
        for exporter in &mut exporters {
            exporter.attrs.remove("dest");
            if !names.is_empty() && !matches!(exporter.r#type.as_str(), "local" | "tar") {
                exporter
                    .attrs
                    .entry("name".to_owned())
                    .or_insert_with(|| names.clone());
            }
        }
        Ok(exporters)
    }
}

#[derive(Deserialize)]
struct Ulimit {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Soft")]
    soft: i64,
    #[serde(rename = "Hard")]
    hard: i64,
}

/// `HOST:IP` as the frontend has them.
fn hosts(given: &[String]) -> Result<String, String> {
    let mut hosts = Vec::new();
    for text in given.iter().flat_map(|text| text.split(',')) {
        let (host, ip) = text
            .split_once(':')
            .ok_or_else(|| format!("extrahosts: {text:?} is not HOST:IP"))?;
        hosts.push(format!("{host}={ip}"));
    }
    Ok(hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Result<SolveRequest, String> {
        Query::of(&format!("/build?version=2&{query}").parse().unwrap()).request()
    }

    #[test]
    fn p57_the_query_of_docker_build_is_a_request() {
        let request = request(
            "remote=client-session&session=s&dockerfile=D&t=a&t=b:1&target=x\
             &buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D\
             &ulimits=null&nocache=1&pull=1&networkmode=host&extrahosts=h%3A1.2.3.4&cachefrom=%5B%22c%22%5D&shmsize=0",
        )
        .unwrap();
        let attrs: Vec<(&str, &str)> = request
            .frontend_attrs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            attrs,
            [
                ("add-hosts", "h=1.2.3.4"),
                ("build-arg:A", "1"),
                ("filename", "D"),
                ("force-network-mode", "host"),
                ("image-resolve-mode", "pull"),
                ("label:l", "v"),
                ("no-cache", ""),
                ("target", "x"),
            ]
        );
        assert_eq!(request.session, "s");
        assert_eq!(request.entitlements, ["network.host"]);
        assert_eq!(request.exporters[0].r#type, "moby");
        assert_eq!(request.exporters[0].attrs["name"], "a,b:1");
        assert_eq!(request.cache.unwrap().imports[0].attrs["ref"], "c");
    }

    #[test]
    fn p57_outputs_are_those_of_the_client() {
        let query = "remote=client-session&t=a&outputs=%5B%7B%22Type%22%3A%22local%22%2C%22Attrs%22%3A%7B%22dest%22%3A%22o%22%7D%7D%5D";
        let request = request(query).unwrap();
        assert_eq!(request.exporters[0].r#type, "local");
        assert!(request.exporters[0].attrs.is_empty());
        let small = "remote=client-session&outputs=%5B%7B%22type%22%3A%22tar%22%7D%5D";
        assert_eq!(self::request(small).unwrap().exporters[0].r#type, "tar");
        let none =
            self::request("remote=client-session&outputs=%5B%7B%22Type%22%3A%22cacheonly%22%7D%5D");
        assert!(none.unwrap().exporters.is_empty());
    }

    #[test]
    fn the_old_builder_is_refused_by_name() {
        let old = Query::of(&"/build?t=a".parse().unwrap()).request();
        assert!(old.unwrap_err().contains("DOCKER_BUILDKIT=1"));
        assert!(request("remote=client-session&buildargs=x").is_err());
    }

    #[test]
    fn p31_p57_a_context_that_is_sent_along_is_one_of_the_clients_files() {
        for remote in ["", "remote=upload-request"] {
            let request = request(remote).unwrap();
            assert_eq!(
                request.frontend_attrs["context"],
                "http://buildkit-session/context"
            );
        }
        let request = request("remote=https%3A%2F%2Fh.example%2Fr.git").unwrap();
        assert_eq!(request.frontend_attrs["context"], "https://h.example/r.git");
    }
}
