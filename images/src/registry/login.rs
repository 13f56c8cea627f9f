//! `login`: asks a registry whether it takes a login, before that is kept.

use reqwest::Url;

use super::Registries;
use super::error::RegistryError;
use super::transport::Request;
use crate::reference::Reference;

impl Registries {
    /// Asks `/v2/` of the registry with what is configured. Succeeds also where no login is asked for; then false is
    /// given.
    ///
    /// # Errors
    /// When the login is refused or the registry can't be asked.
    pub async fn verify_login(&self, domain: &str) -> Result<bool, RegistryError> {
        let failed = |attempts| RegistryError::AllHostsFailed {
            reference: domain.to_owned(),
            attempts,
        };
        let config = |problem: &str| RegistryError::Config {
            host: domain.to_owned(),
            problem: problem.to_owned(),
        };
        let reference = Reference::parse(&format!("{domain}/x"))
            .map_err(|_| config("this is not the name of a registry"))?;
        self.0.online(&reference)?;
        let (endpoints, attempts) = self.0.usable(&reference, super::hosts::Purpose::Push);
        let Some(endpoint) = endpoints.last() else {
            return Err(failed(attempts));
        };
        let url = Url::parse(&format!("{}{}/", endpoint.client.base(), endpoint.root))
            .map_err(|_| config("this is not the name of a registry"))?;
        let request = Request::get(url.clone(), String::new());
        match self.0.send(endpoint, &request).await {
            Ok(_) => {
                let asked = endpoint.client.challenge.lock();
                Ok(asked.unwrap_or_else(|e| e.into_inner()).is_some())
            }
            Err(error) => Err(failed(vec![endpoint.attempt("Get", &url, error)])),
        }
    }
}
