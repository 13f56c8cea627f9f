//! `gateway login`, `gateway logout`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use gateway_images::reference::api_host;
use gateway_images::registry::{
    Credential, FixedCredentials, LoginPlace, Registries, forget_login, keep_login,
};

use super::settings::{RegistryArgs, login_file};
use super::{environment, failed, with_registries};
use crate::error::{CliError, UsageError};
use crate::prompt;

/// Log in to a registry: the login is tried, and then kept where docker and podman find it too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway login registry.example:5000                    asks for name and password
  gateway login -u me --password-stdin < password        Docker Hub, the password from a file")]
pub struct Login {
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    host: String,

    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password from stdin
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    registries: RegistryArgs,
}

/// Forget the login of a registry.
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    host: String,
}

pub fn login(args: &Login) -> Result<(), CliError> {
    let username = match &args.username {
        Some(name) => name.clone(),
        None => ask("Username: ", true)?,
    };
    let password = match args.password_stdin {
        true => {
            let mut text = String::new();
            let read = std::io::stdin()
                .take(prompt::MAX_ANSWER)
                .read_to_string(&mut text);
            read.map_err(|source| CliError::Write {
                path: "stdin".into(),
                source,
            })?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        false => ask("Password: ", false)?,
    };
    if username.is_empty() || password.is_empty() || username.contains(':') {
        let problem = "a user name without colon and a password are needed".to_owned();
        return Err(UsageError::new("login", &args.host, problem).into());
    }
    let host = host_of(&args.host)?;
    let file = file()?;
    with_registries(&args.registries, |registries: Registries| async move {
        let login = Credential::Basic {
            username: username.clone(),
            password: password.clone(),
        };
        let logins = BTreeMap::from([(api_host(&host).to_owned(), login)]);
        let registries = registries.with_credentials(Arc::new(FixedCredentials(logins)));
        let asked = registries.verify_login(&host).await;
        let asked = asked.map_err(|error| failed(&error))?;
        for notice in registries.take_notices() {
            eprintln!("{notice}");
        }
        let kept = keep_login(&file, &host, &username, &password, None).await;
        let kept = kept.map_err(|error| CliError::Credentials {
            path: file.clone(),
            problem: error.to_string(),
        })?;
        if !asked {
            eprintln!("warning: {host} does not ask for a login; it was not tried");
        }
        match kept {
            LoginPlace::File => println!(
                "Login kept in {}, where who reads it can read the password",
                file.display()
            ),
            LoginPlace::Helper(helper) => println!("Login kept with docker-credential-{helper}"),
        }
        Ok(())
    })
}

pub fn logout(args: &Logout) -> Result<(), CliError> {
    let host = host_of(&args.host)?;
    let file = file()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let forgotten = runtime
        .block_on(forget_login(&file, &host, None))
        .map_err(|error| CliError::Credentials {
            path: file.clone(),
            problem: error.to_string(),
        })?;
    match forgotten {
        true => println!("Login of {host} removed"),
        false => println!("There was no login of {host}"),
    }
    Ok(())
}

fn file() -> Result<PathBuf, CliError> {
    login_file(&environment()).ok_or(CliError::NoLoginFile)
}

/// `https://host/` is what other tools take; the names of Docker Hub are one.
fn host_of(text: &str) -> Result<String, CliError> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    match bare {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => Ok("docker.io".to_owned()),
        "" => Err(UsageError::new("HOST", text, "names no registry".into()).into()),
        other => Ok(other.to_owned()),
    }
}

fn ask(prompt: &str, shown: bool) -> Result<String, CliError> {
    if !prompt::is_possible() {
        let problem = "not on a terminal: give --username and --password-stdin".to_owned();
        return Err(UsageError::new("login", prompt.trim_end(), problem).into());
    }
    prompt::ask(prompt, shown)
}
