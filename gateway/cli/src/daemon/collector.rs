//! Where spans of clients go, as the usual variables of OpenTelemetry say.

use std::path::PathBuf;

use gateway_daemon::{Collector, CollectorProtocol, CollectorTls};
use gateway_images::registry::{KeyPair, SystemTrust};

use crate::environment::Environment;

const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// What a path becomes that is given for all that is collected.
const TRACES: &str = "v1/traces";

/// The collector that the environment names; none where it names none or says that nothing is to be sent.
///
/// # Errors
/// In words, for what cannot be done: then no spans are sent.
pub fn collector(env: &Environment, system: SystemTrust) -> Result<Option<Collector>, String> {
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
    let (secure, rest) = match (
        given.strip_prefix("http://"),
        given.strip_prefix("https://"),
    ) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        // It may hold a password: it is not shown.
        _ => {
            return Err(
                "OTEL_EXPORTER_OTLP_ENDPOINT is neither http://HOST:PORT nor https://HOST:PORT"
                    .to_owned(),
            );
        }
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains('@') {
        return Err("OTEL_EXPORTER_OTLP_ENDPOINT is not http[s]://HOST:PORT".to_owned());
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
    let keypair = match (own("CLIENT_CERTIFICATE"), own("CLIENT_KEY")) {
        (Some(cert), Some(key)) => Some(KeyPair {
            cert: cert.into(),
            key: key.into(),
        }),
        (None, None) => None,
        _ => {
            return Err(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY need each other"
                    .to_owned(),
            );
        }
    };
    let collector = Collector {
        authority,
        tls: secure.then(|| CollectorTls {
            ca: own("CERTIFICATE").map(PathBuf::from),
            system,
            keypair,
        }),
        protocol,
        headers: headers(own("HEADERS").map_or("", String::as_str))?,
    };
    collector.check().map_err(|problem| {
        format!("TLS towards the collector of OTEL_EXPORTER_OTLP_ENDPOINT: {problem}")
    })?;
    Ok(Some(collector))
}

/// `KEY=VALUE,KEY=VALUE`, in which `%2C` is a comma. Values are secrets, so none is shown.
fn headers(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let decoded = |key: &str, text: &str| {
        let wrong = || {
            format!(
                "OTEL_EXPORTER_OTLP_HEADERS: the value of {key} has a % without two digits, or is no text"
            )
        };
        let bytes = unescaped(text.trim().as_bytes()).ok_or_else(wrong)?;
        String::from_utf8(bytes).map_err(|_| wrong())
    };
    pairs
        .map(|(key, value)| {
            let key = key.trim();
            Ok((key.to_owned(), decoded(key, value)?))
        })
        .collect()
}

/// `%` with two hexadecimal digits is a byte.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut rest = text.iter().copied();
    let mut bytes = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next())? << 4 | digit(rest.next())?).ok()?,
            other => other,
        });
    }
    Some(bytes)
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
            SystemTrust::None,
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
        let escaped = of(&[
            (ALL, "http://c:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=Basic%20x%3d%2C, b=ü%C3%BC"),
        ]);
        let expected = [("a", "Basic x=,"), ("b", "üü")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(escaped.unwrap().unwrap().headers, expected);
        for wrong in ["a=secret%", "a=secret%2", "a=secret%xy", "a=secret%ff"] {
            let refused = of(&[(ALL, "http://c:1"), ("OTEL_EXPORTER_OTLP_HEADERS", wrong)]);
            let refused = refused.unwrap_err();
            assert!(!refused.contains("secret"), "{refused}");
        }
        let secure = of(&[(ALL, "https://c:1")]).unwrap().unwrap();
        assert_eq!(secure.tls.unwrap().ca, None);
        for half in ["CERTIFICATE", "CLIENT_KEY"] {
            let name = format!("OTEL_EXPORTER_OTLP_{half}");
            assert!(of(&[(ALL, "https://c:1"), (&name, "/no/such/file")]).is_err());
        }
        for wrong in ["ftp://c:1", "c:1", "http://", "http://user:password@c:1"] {
            assert!(of(&[(ALL, wrong)]).is_err(), "{wrong}");
        }
        let json = of(&[
            (ALL, "http://c:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ]);
        assert!(json.is_err());
    }
}
