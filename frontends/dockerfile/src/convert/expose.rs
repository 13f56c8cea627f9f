//! EXPOSE: ports in their many spellings.

use std::net::IpAddr;

use gateway_api::Error;

use super::Converter;
use super::stage::Stage;
use crate::lint::rules;
use crate::parse::Instruction;
use crate::parse::quote::go_quote;

/// The parts of one spelling.
struct Port<'a> {
    ip: &'a str,
    host: &'a str,
    container: &'a str,
    protocol: &'a str,
}

impl Converter<'_> {
    pub(super) fn expose(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
        words: &[String],
    ) -> Result<(), Error> {
        let mut ports = Vec::new();
        for word in words {
            let done = self.budget.expand(self.rules, word, stage.state.get_env());
            let done = done.map_err(|e| Error::unknown(e.to_string()))?;
            self.budget.text(done.value.len())?;
            for text in &done.words {
                ports.extend(self.ports(instruction, text).map_err(Error::unknown)?);
            }
        }
        let text = format!("EXPOSE [{}]", ports.join(" "));
        for port in ports {
            stage.image.exposed_ports.insert_mut(port);
        }
        self.commit(stage, text, false)?;
        Ok(())
    }

    fn ports(&self, instruction: &Instruction, text: &str) -> Result<Vec<String>, String> {
        let port = Port::read(text)?;
        let (lines, comments) = (instruction.location, &instruction.comments);
        if port.protocol != port.protocol.to_lowercase() {
            let finding = rules::expose_proto_casing(text);
            self.checks.found(lines, comments, finding);
        }
        if !port.ip.is_empty() || !port.host.is_empty() {
            let finding = rules::expose_invalid_format(text);
            self.checks.found(lines, comments, finding);
        }
        port.list()
    }
}

impl<'a> Port<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let (front, container) = text.rsplit_once(':').unwrap_or(("", text));
        let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
        let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
        if container.is_empty() {
            return Err(format!(
                "invalid port: {}: no port specified",
                go_quote(text)
            ));
        }
        let protocol = match protocol.to_lowercase().as_str() {
            "" => "tcp",
            "tcp" | "udp" | "sctp" => protocol,
            _ => {
                return Err(format!(
                    "invalid port: {}: invalid proto: {protocol}",
                    go_quote(text)
                ));
            }
        };
        Ok(Self {
            ip,
            host,
            container,
            protocol,
        })
    }

    fn list(&self) -> Result<Vec<String>, String> {
        let ip = match self.ip.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .ok_or_else(|| format!("invalid IP address {}", self.ip))?,
            None => self.ip,
        };
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            return Err(format!("invalid IP address: {ip}"));
        }
        let (first, last) = range(self.container)
            .ok_or_else(|| format!("invalid containerPort: {}", self.container))?;
        if !self.host.is_empty() {
            let (host_first, host_last) =
                range(self.host).ok_or_else(|| format!("invalid hostPort: {}", self.host))?;
            if first != last && last - first != host_last - host_first {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {} and {}",
                    self.container, self.host
                ));
            }
        }
        let protocol = self.protocol.to_lowercase();
        Ok((first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect())
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::Port;

    fn list(text: &str) -> Result<Vec<String>, String> {
        Port::read(text)?.list()
    }

    #[test]
    fn ports_have_many_spellings() {
        assert_eq!(list("80").unwrap(), ["80/tcp"]);
        assert_eq!(list("8000-8001/UDP").unwrap(), ["8000/udp", "8001/udp"]);
        assert_eq!(list("[::1]:80:81").unwrap(), ["81/tcp"]);
    }

    #[test]
    fn mistakes_have_the_reference_words() {
        for (text, words) in [
            ("abc", "invalid containerPort: abc"),
            ("70000", "invalid containerPort: 70000"),
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
        ] {
            assert_eq!(list(text).unwrap_err(), words);
        }
    }
}
