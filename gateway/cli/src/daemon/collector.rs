//! Where spans of clients go, as the usual variables of OpenTelemetry say.

use gateway_daemon::{Collector, CollectorProtocol};

use crate::environment::Environment;

const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// What a path becomes that is given for all that is collected.
const TRACES: &str = "v1/traces";

/// The collector that the environment names; none where it names none or says that nothing is to be sent.
///
/// # Errors
/// In words, for what cannot be done: then no spans are sent.
pub fn collector(env: &Environment) -> Result<Option<Collector>, String> {
    let get = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let own = |name: &str| {
        get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
            .or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let exporter = get("OTEL_TRACES_EXPORTER").map(String::as_str);
    let wanted = exporter == Some("otlp") || own("ENDPOINT").is_some();
    let disabled = get("OTEL_SDK_DISABLED").is_some_and(|value| value == "true");
    if !wanted || disabled || exporter == Some("none") {
        return Ok(None);
    }
    let grpc = match own("PROTOCOL").map_or("grpc", String::as_str) {
        "grpc" => true,
        "http/protobuf" => false,
        other => {
            return Err(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL: {other:?} is not supported: grpc or http/protobuf"
            ));
        }
    };
    let port = if grpc { GRPC_PORT } else { HTTP_PORT };
    let usual = format!("http://localhost:{port}");
    let given = own("ENDPOINT").unwrap_or(&usual);
    let Some(rest) = given.strip_prefix("http://") else {
        // It may hold a password: it is not shown.
        return Err(
            "OTEL_EXPORTER_OTLP_ENDPOINT: collectors are reached by http://HOST:PORT only, without TLS"
                .to_owned(),
        );
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains('@') {
        return Err("OTEL_EXPORTER_OTLP_ENDPOINT is not http://HOST:PORT".to_owned());
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = match has_port {
        true => host.to_owned(),
        false => format!("{host}:{port}"),
    };
    // The endpoint of traces alone is taken as it stands, the one of everything gets the usual path.
    let path = match get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        Some(_) => format!("/{path}"),
        None if path.is_empty() || path.ends_with('/') => format!("/{path}{TRACES}"),
        None => format!("/{path}/{TRACES}"),
    };
    let protocol = match grpc {
        true => CollectorProtocol::Grpc,
        false => CollectorProtocol::Http { path },
    };
    Ok(Some(Collector {
        authority,
        protocol,
        headers: headers(own("HEADERS").map_or("", String::as_str)),
    }))
}

/// `KEY=VALUE,KEY=VALUE`.
fn headers(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Collector>, String> {
        let pairs = variables.iter();
        collector(
            &pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn p25_a_collector_is_named_by_the_usual_variables() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(
            of(&[(ALL, "http://c:1"), ("OTEL_TRACES_EXPORTER", "none")]),
            Ok(None)
        );
        assert_eq!(
            of(&[(ALL, "http://c:1"), ("OTEL_SDK_DISABLED", "true")]),
            Ok(None)
        );
        let authority = |variables: &[(&str, &str)]| of(variables).unwrap().unwrap().authority;
        assert_eq!(authority(&[(ALL, "http://c:1")]), "c:1");
        assert_eq!(authority(&[(ALL, "http://c")]), "c:4317");
        assert_eq!(authority(&[(ALL, "http://c"), HTTP]), "c:4318");
        assert_eq!(
            authority(&[("OTEL_TRACES_EXPORTER", "otlp")]),
            "localhost:4317"
        );
        assert_eq!(
            authority(&[(ALL, "http://c:1"), (TRACES, "http://d:2")]),
            "d:2"
        );
        let path = |variables: &[(&str, &str)]| match of(variables).unwrap().unwrap().protocol {
            CollectorProtocol::Http { path } => path,
            CollectorProtocol::Grpc => String::new(),
        };
        assert_eq!(path(&[(ALL, "http://c:1"), HTTP]), "/v1/traces");
        assert_eq!(path(&[(ALL, "http://c:1/x"), HTTP]), "/x/v1/traces");
        assert_eq!(path(&[(TRACES, "http://c:1/x"), HTTP]), "/x");
        assert_eq!(path(&[(ALL, "http://c:1/x")]), "");
        let keyed = of(&[
            (ALL, "http://c:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c=d=e"),
        ]);
        let expected = [("a", "b"), ("c", "d=e")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(keyed.unwrap().unwrap().headers, expected);
        for wrong in ["https://c:1", "c:1", "http://", "http://user:password@c:1"] {
            assert!(of(&[(ALL, wrong)]).is_err(), "{wrong}");
        }
        let json = of(&[
            (ALL, "http://c:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ]);
        assert!(json.is_err());
    }
}
