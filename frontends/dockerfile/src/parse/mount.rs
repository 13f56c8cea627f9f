//! `RUN --mount=`: from its CSV text to a value.

use super::quote::go_quote;
use gateway_api::parse_bool;
use gateway_frontend::csv;

use super::suggest;

/// The kinds of mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl MountType {
    /// The word of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// How builds share a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// One `--mount=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `type=`.
    pub kind: MountType,
    /// `from=`; empty when not given.
    pub from: String,
    /// `source=`; empty when not given.
    pub source: String,
    /// `target=`; empty when not given.
    pub target: String,
    /// `ro`/`rw`, or the default of the type.
    pub read_only: bool,
    /// `size=` of tmpfs in bytes; 0 when not given.
    pub size: i64,
    /// `id=`; empty when not given.
    pub id: String,
    /// `sharing=` of cache.
    pub sharing: Option<Sharing>,
    /// `required` of secret and ssh.
    pub required: bool,
    /// `env=` of secret.
    pub env: Option<String>,
    /// `mode=`, octal in the file.
    pub mode: Option<u32>,
    /// `uid=`.
    pub uid: Option<u32>,
    /// `gid=`.
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

fn split(raw: &str) -> Result<Vec<String>, String> {
    csv::fields(raw).map_err(|e| format!("failed to parse csv mounts: {e}"))
}

/// What can be told before the values are known: that it is CSV, and that `from` holds no variable.
pub(super) fn check_unexpanded(raw: &str) -> Result<(), String> {
    for field in split(raw)? {
        let Some((key, value)) = field.split_once('=') else {
            continue;
        };
        let has_variable = value.find('$').is_some_and(|at| at + 1 != value.len());
        if key.eq_ignore_ascii_case("from") && has_variable {
            return Err(
                "'from' doesn't support variable expansion, define alias stage instead".to_owned(),
            );
        }
    }
    Ok(())
}

impl Mount {
    /// Read a `--mount` value; `expand` is asked for the value of every `key=value`.
    ///
    /// # Errors
    /// The text of the mistake, or what `expand` returned.
    pub fn parse(
        raw: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, String> {
        let mut mount = Self::default();
        let mut read_only = None;
        for field in split(raw)? {
            match field.split_once('=') {
                Some((key, value)) => {
                    let value = expand(value)?;
                    mount.set(&key.to_lowercase(), value, &field, &mut read_only)?;
                }
                None => mount.switch(&field, &mut read_only)?,
            }
        }
        mount.read_only =
            read_only.unwrap_or(!matches!(mount.kind, MountType::Cache | MountType::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    /// A key without a value.
    fn switch(&mut self, field: &str, read_only: &mut Option<bool>) -> Result<(), String> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => *read_only = Some(true),
            "readwrite" | "rw" => *read_only = Some(false),
            key @ "required" => {
                self.allow(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = true;
            }
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: &str,
        value: String,
        field: &str,
        read_only: &mut Option<bool>,
    ) -> Result<(), String> {
        let invalid = || format!("invalid value for {key}: {value}");
        let number = |radix| {
            u32::from_str_radix(&value, radix)
                .ok()
                .filter(|_| !value.starts_with('+'))
                .ok_or_else(|| format!("invalid value {value} for {key}"))
        };
        match key {
            "type" => self.kind = parse_type(&value)?,
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => *read_only = Some(parse_bool(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => *read_only = Some(!parse_bool(&value).ok_or_else(invalid)?),
            "required" => {
                self.allow(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = parse_bool(&value).ok_or_else(invalid)?;
            }
            "size" => {
                self.allow(key, &[MountType::Tmpfs])?;
                self.size = parse_size(&value).ok_or_else(invalid)?;
            }
            "id" => self.id = value,
            "sharing" => self.sharing = Some(parse_sharing(&value)?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value),
            _ => {
                let text = format!("unexpected key '{key}' in '{field}'");
                return Err(suggest::with_hint(text, key, KEYS));
            }
        }
        Ok(())
    }

    /// A key that only some types have; the type must come before it.
    fn allow(&self, key: &str, kinds: &[MountType]) -> Result<(), String> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        Err(format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind.name()
        ))
    }

    /// What only the whole can tell.
    fn check(&self) -> Result<(), String> {
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            let given = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
                let kind = go_quote(self.kind.name());
                return Err(format!("{key} not allowed for {kind} type mounts"));
            }
        }
        if self.kind == MountType::Secret {
            let wrong = if !self.from.is_empty() {
                "secret mount should not have a from"
            } else if self.sharing.is_some() {
                "secret mount should not define sharing"
            } else if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                "invalid secret mount. one of source, target required"
            } else if !self.source.is_empty() && !self.id.is_empty() {
                "both source and id can't be set"
            } else {
                return Ok(());
            };
            return Err(wrong.to_owned());
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            let kind = self.kind.name();
            return Err(format!("invalid cache sharing set for {kind} mount"));
        }
        Ok(())
    }
}

fn parse_type(value: &str) -> Result<MountType, String> {
    Ok(match value.to_lowercase().as_str() {
        "bind" => MountType::Bind,
        "cache" => MountType::Cache,
        "tmpfs" => MountType::Tmpfs,
        "secret" => MountType::Secret,
        "ssh" => MountType::Ssh,
        _ => {
            let text = format!("unsupported mount type {}", go_quote(value));
            let types = ["bind", "cache", "secret", "ssh", "tmpfs"];
            return Err(suggest::with_hint(text, value, types));
        }
    })
}

fn parse_sharing(value: &str) -> Result<Sharing, String> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            let text = format!("unsupported sharing value {}", go_quote(value));
            let modes = ["locked", "private", "shared"];
            return Err(suggest::with_hint(text, value, modes));
        }
    })
}

/// Bytes of a size such as `1g`, `1.5 MiB` or `100`; units are powers of 1024.
fn parse_size(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at_checked(last + 1)?;
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let unit = unit.to_lowercase();
    let exponent = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    // float to integer casts saturate
    #[allow(clippy::cast_possible_truncation)]
    Some((number * 1024f64.powi(exponent)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<Mount, String> {
        Mount::parse(raw, &mut |value| Ok(value.replace("$X", "x")))
    }

    #[test]
    fn types_have_their_defaults() {
        assert!(parse("target=/a").unwrap().read_only);
        assert!(!parse("type=cache,target=/a").unwrap().read_only);
        assert!(!parse("type=tmpfs,target=/a").unwrap().read_only);
        assert!(parse("type=SECRET,id=a").unwrap().read_only);
        assert!(!parse("target=/a,rw").unwrap().read_only);
        assert!(!parse("target=/a,ro=false").unwrap().read_only);
    }

    #[test]
    fn all_keys_are_read() {
        let mount =
            parse("type=cache,from=s,src=/$X,dst=/b,id=i,sharing=locked,mode=0755,uid=1,gid=2")
                .unwrap();
        let expected = Mount {
            kind: MountType::Cache,
            from: "s".to_owned(),
            source: "/x".to_owned(),
            target: "/b".to_owned(),
            id: "i".to_owned(),
            sharing: Some(Sharing::Locked),
            mode: Some(0o755),
            uid: Some(1),
            gid: Some(2),
            ..Mount::default()
        };
        assert_eq!(mount, expected);
        let secret = parse("type=secret,id=a,env=A,required").unwrap();
        assert_eq!(secret.env.as_deref(), Some("A"));
        assert!(secret.required);
        let tmpfs = |size: &str| parse(&format!("type=tmpfs,size={size}")).map(|m| m.size);
        assert_eq!(tmpfs("1m"), Ok(1 << 20));
        assert_eq!(tmpfs("1.5 GiB"), Ok(3 << 29));
        assert_eq!(tmpfs("10b"), Ok(10));
        assert_eq!(tmpfs("10"), Ok(10));
        assert!(tmpfs("1x").is_err() && tmpfs("ib").is_err() && tmpfs("1ib").is_err());
    }

    #[test]
    fn each_mistake_has_its_text() {
        let error = |raw| parse(raw).unwrap_err();
        assert_eq!(
            error("type=cach"),
            "unsupported mount type \"cach\" (did you mean cache?)"
        );
        assert_eq!(error("type=magic"), "unsupported mount type \"magic\"");
        assert_eq!(
            error("tarfet=/x"),
            "unexpected key 'tarfet' in 'tarfet=/x' (did you mean target?)"
        );
        assert_eq!(
            error("type=cache,sharing=shard"),
            "unsupported sharing value \"shard\" (did you mean shared?)"
        );
        assert_eq!(error("uid=1"), "uid not allowed for \"bind\" type mounts");
        assert_eq!(
            error("required"),
            "unexpected key 'required' for mount type 'bind'"
        );
        assert_eq!(
            error("type=secret"),
            "invalid secret mount. one of source, target required"
        );
        assert_eq!(
            error("type=secret,id=a,source=b"),
            "both source and id can't be set"
        );
        assert_eq!(
            error("target"),
            "invalid field 'target' must be a key=value pair"
        );
        assert_eq!(error("type=cache,uid=-1"), "invalid value -1 for uid");
        assert_eq!(error("type=tmpfs,size=x"), "invalid value for size: x");
        assert_eq!(
            check_unexpanded("from=$x").unwrap_err(),
            "'from' doesn't support variable expansion, define alias stage instead"
        );
        assert_eq!(check_unexpanded("from=a$"), Ok(()));
    }
}
