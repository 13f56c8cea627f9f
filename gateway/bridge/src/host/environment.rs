//! The variables of a frontend's process.

use gateway_api::{Error, Invocation, Worker};
use serde_json::{Value, json};

/// The kernel's limit for one string, its end byte included; beyond it exec fails without saying
/// which.
const MAX_VARIABLE_BYTES: usize = 128 << 10;

/// The image's variables, then ours. A variable of ours replaces the image's: programs differ in
/// which of two they take.
///
/// # Errors
/// An option too long for a variable.
pub fn environment(image: &[String], invocation: &Invocation) -> Result<Vec<String>, Error> {
    let mut ours: Vec<String> = invocation
        .opts
        .iter()
        .enumerate()
        .map(|(number, (key, value))| format!("BUILDKIT_FRONTEND_OPT_{number}={key}={value}"))
        .collect();
    for (variable, key) in ours.iter().zip(invocation.opts.keys()) {
        if variable.len() >= MAX_VARIABLE_BYTES {
            return Err(Error::invalid(format!(
                "option {key:.100} is too long for a frontend image: {} bytes, at most {MAX_VARIABLE_BYTES}",
                variable.len()
            )));
        }
    }
    ours.push(format!("BUILDKIT_SESSION_ID={}", invocation.session_id));
    ours.push(format!("BUILDKIT_EXPORTEDPRODUCT={}", invocation.product));
    ours.push(format!("BUILDKIT_WORKERS={}", workers(&invocation.workers)));
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let names: std::collections::BTreeSet<String> = ours.iter().map(|v| name(v)).collect();
    let kept = image
        .iter()
        .filter(|variable| !names.contains(&name(variable)));
    Ok(kept.cloned().chain(ours).collect())
}

fn workers(workers: &[Worker]) -> Value {
    workers
        .iter()
        .map(|worker| {
            let platforms: Vec<Value> = worker
                .platforms
                .iter()
                .map(|platform| {
                    let mut object = json!({
                        "architecture": platform.architecture,
                        "os": platform.os,
                    });
                    if !platform.variant.is_empty() {
                        object["variant"] = json!(platform.variant);
                    }
                    if !platform.os_version.is_empty() {
                        object["os.version"] = json!(platform.os_version);
                    }
                    if !platform.os_features.is_empty() {
                        object["os.features"] = json!(platform.os_features);
                    }
                    object
                })
                .collect();
            json!({"id": worker.id, "labels": worker.labels, "platforms": platforms})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gateway_frontend::Environment;
    use gateway_llb::pb;

    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            opts: [
                ("build-arg:A".to_owned(), "x=y\nz".to_owned()),
                ("cmdline".to_owned(), "image a b".to_owned()),
                ("source".to_owned(), "image".to_owned()),
            ]
            .into(),
            session_id: "session".to_owned(),
            product: "gateway".to_owned(),
            workers: vec![Worker {
                id: "w".to_owned(),
                labels: [("k".to_owned(), "v".to_owned())].into(),
                platforms: vec![pb::Platform {
                    os: "linux".to_owned(),
                    architecture: "arm".to_owned(),
                    variant: "v7".to_owned(),
                    ..pb::Platform::default()
                }],
            }],
            ..Invocation::default()
        }
    }

    #[test]
    fn p07_image_variables_come_first_and_options_are_contiguous_and_whole() {
        let image = [
            "PATH=/bin".to_owned(),
            "BUILDKIT_SESSION_ID=of the image".to_owned(),
        ];
        let variables = environment(&image, &invocation()).unwrap();
        assert_eq!(variables[0], "PATH=/bin");
        assert_eq!(variables[1], "BUILDKIT_FRONTEND_OPT_0=build-arg:A=x=y\nz");
        assert_eq!(variables[3], "BUILDKIT_FRONTEND_OPT_2=source=image");
        let sessions = variables
            .iter()
            .filter(|v| v.starts_with("BUILDKIT_SESSION_ID="));
        assert_eq!(
            sessions.collect::<Vec<_>>(),
            ["BUILDKIT_SESSION_ID=session"]
        );
    }

    #[test]
    fn p08_p09_a_frontend_reads_back_what_it_was_given() {
        let variables = environment(&[], &invocation()).unwrap();
        let parsed = Environment::parse(variables.iter().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        }));
        let given = invocation();
        assert_eq!(parsed.opts, given.opts);
        assert_eq!(parsed.session_id, given.session_id);
        assert_eq!(parsed.product, given.product);
        assert_eq!(parsed.workers, given.workers);
    }

    #[test]
    fn an_option_too_long_for_the_kernel_is_named() {
        let mut invocation = invocation();
        invocation
            .opts
            .insert("build-arg:LONG".to_owned(), "x".repeat(MAX_VARIABLE_BYTES));
        let error = environment(&[], &invocation).unwrap_err();
        assert!(error.message.contains("build-arg:LONG"), "{error}");
    }
}
