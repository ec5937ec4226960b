//! How devices are asked: `--snmp 'community=public'`, `--modbus 'port=502,units=1+2'`.
//!
//! Knows: the words of these texts. Refuses to know: sockets. Secrets are never printed, save a community that was
//! typed on the command line and is part of the proposed configuration.

use std::str::FromStr;
use std::sync::Arc;

use crate::config::Access;
use crate::source::snmp::usm::{AuthProtocol, MIN_PASSWORD_BYTES, PrivProtocol, Secret, User};

/// Units of one Modbus address that are asked.
const MAX_UNITS: usize = 16;

/// Credentials to try.
#[derive(Debug, Clone)]
pub struct SnmpSpec {
    pub port: u16,
    pub access: Access,
    /// How the proposed configuration says it.
    pub written: String,
}

/// Units to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusSpec {
    pub port: u16,
    pub units: Vec<u8>,
}

/// Why a text is no specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("`{0}` is not key=value")]
    Pair(String),
    #[error("`{key}` is not known; there are {known}")]
    Key { key: String, known: &'static str },
    #[error("`{value}` is no value of `{key}`")]
    Value { key: &'static str, value: String },
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("{path} cannot be read: {why}")]
    File { path: String, why: String },
    #[error("{path}: a key has at least {MIN_PASSWORD_BYTES} characters")]
    ShortKey { path: String },
}

const SNMP_KEYS: &str = "version, community, user, auth, auth_key_file, priv, priv_key_file, context, port";

/// `key=value` separated by commas.
fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, &str), SpecError>> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or_else(|| SpecError::Pair(pair.to_owned()))?;
        Ok((key.trim(), value.trim()))
    })
}

fn number<T: FromStr>(key: &'static str, value: &str) -> Result<T, SpecError> {
    value.parse().map_err(|_| SpecError::Value { key, value: value.to_owned() })
}

fn word<T: serde::de::DeserializeOwned>(key: &'static str, value: &str) -> Result<T, SpecError> {
    let word = serde_json::Value::String(value.to_owned());
    serde_json::from_value(word).map_err(|_| SpecError::Value { key, value: value.to_owned() })
}

fn secret(path: &str) -> Result<Secret, SpecError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SpecError::File { path: path.to_owned(), why: error.to_string() })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() < MIN_PASSWORD_BYTES {
        return Err(SpecError::ShortKey { path: path.to_owned() });
    }
    Ok(Secret::new(text))
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl FromStr for SnmpSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<SnmpSpec, SpecError> {
        let (mut version, mut community, mut user, mut context) = (None, None, None, String::new());
        let (mut auth, mut auth_key, mut privacy, mut priv_key) = (None, None, None, None);
        let mut port = 161;
        for pair in pairs(text) {
            let (key, value) = pair?;
            match key {
                "version" => version = Some(value),
                "community" => community = Some(value),
                "user" => user = Some(value),
                "context" => value.clone_into(&mut context),
                "auth" => auth = Some((value, word::<AuthProtocol>("auth", value)?)),
                "auth_key_file" => auth_key = Some((value, secret(value)?)),
                "priv" => privacy = Some((value, word::<PrivProtocol>("priv", value)?)),
                "priv_key_file" => priv_key = Some((value, secret(value)?)),
                "port" => port = number("port", value)?,
                _ => return Err(SpecError::Key { key: key.to_owned(), known: SNMP_KEYS }),
            }
        }
        let version = version.unwrap_or(if user.is_some() { "3" } else { "2c" });
        if matches!(version, "1" | "2c") {
            let community = community.ok_or(SpecError::Missing("community"))?.to_owned();
            let written = format!("version = \"{version}\", community = {}", quoted(&community));
            let access = if version == "1" { Access::V1 { community } } else { Access::V2c { community } };
            return Ok(SnmpSpec { port, access, written });
        }
        if version != "3" {
            return Err(SpecError::Value { key: "version", value: version.to_owned() });
        }
        let user = user.ok_or(SpecError::Missing("user"))?;
        let mut v3 = format!("user = {}", quoted(user));
        if !context.is_empty() {
            v3 += &format!(", context = {}", quoted(&context));
        }
        let mut pair = |word: &str, protocol: Option<&str>, file: Option<&str>| {
            if let (Some(protocol), Some(file)) = (protocol, file) {
                v3 += &format!(", {word} = \"{protocol}\", {word}_key_file = {}", quoted(file));
            }
        };
        pair("auth", auth.map(|a| a.0), auth_key.as_ref().map(|k| k.0));
        pair("priv", privacy.map(|p| p.0), priv_key.as_ref().map(|k| k.0));
        match (auth.is_some(), auth_key.is_some(), privacy.is_some(), priv_key.is_some()) {
            (true, false, ..) => return Err(SpecError::Missing("auth_key_file")),
            (false, true, ..) | (false, _, true, _) => return Err(SpecError::Missing("auth")),
            (_, _, true, false) => return Err(SpecError::Missing("priv_key_file")),
            (_, _, false, true) => return Err(SpecError::Missing("priv")),
            _ => {}
        }
        let auth = auth.map(|a| a.1).zip(auth_key.map(|k| k.1));
        let privacy = privacy.map(|p| p.1).zip(priv_key.map(|k| k.1));
        let access = Access::V3(Arc::new(User::new(user.to_owned(), context, auth, privacy)));
        Ok(SnmpSpec { port, access, written: format!("version = \"3\", v3 = {{ {v3} }}") })
    }
}

impl FromStr for ModbusSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<ModbusSpec, SpecError> {
        let mut spec = ModbusSpec { port: 502, units: vec![1] };
        for pair in pairs(text) {
            let (key, value) = pair?;
            match key {
                "port" => spec.port = number("port", value)?,
                "units" => {
                    spec.units = value.split('+').map(|unit| number("units", unit)).collect::<Result<_, _>>()?;
                    if spec.units.len() > MAX_UNITS {
                        return Err(SpecError::Value { key: "units", value: value.to_owned() });
                    }
                }
                _ => return Err(SpecError::Key { key: key.to_owned(), known: "port, units" }),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_and_what_is_wrong_with_them() {
        let spec: SnmpSpec = "community=public".parse().unwrap();
        assert_eq!((spec.port, spec.written.as_str()), (161, "version = \"2c\", community = \"public\""));
        assert_eq!("version=1,community=a,port=1161".parse::<SnmpSpec>().unwrap().access.version(), "1");
        assert_eq!("user=op".parse::<SnmpSpec>().unwrap().access.version(), "3");
        let fault = |text: &str| text.parse::<SnmpSpec>().unwrap_err();
        assert_eq!(fault("version=2c"), SpecError::Missing("community"));
        assert_eq!(fault("user=op,auth=sha256"), SpecError::Missing("auth_key_file"));
        assert!(matches!(fault("user=op,auth=sha3"), SpecError::Value { key: "auth", .. }));
        assert!(matches!(fault("public"), SpecError::Pair(_)));
        assert!(matches!(fault("comunity=public"), SpecError::Key { .. }));
        assert!(matches!(fault("user=op,auth_key_file=/nowhere"), SpecError::File { .. }));
        let modbus: ModbusSpec = "port=1502,units=1+2+247".parse().unwrap();
        assert_eq!(modbus, ModbusSpec { port: 1_502, units: vec![1, 2, 247] });
        assert_eq!("".parse::<ModbusSpec>().unwrap(), ModbusSpec { port: 502, units: vec![1] });
        assert!("units=300".parse::<ModbusSpec>().is_err());
    }
}
