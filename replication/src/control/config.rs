//! What may be set for a topic: dotted keys, the same in files, on the command line, on the wire.

use std::{collections::BTreeMap, time::Duration};

use catena_format::limits::{
    BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};

/// A setting of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicSetting {
    /// Its key.
    pub key: &'static str,
    /// Its value when nobody set it; −1 means without limit.
    pub default: i64,
    /// The least value.
    pub min: i64,
    /// The greatest value.
    pub max: i64,
    /// What it does, with its unit.
    pub doc: &'static str,
}

/// The key of the largest batch taken.
pub const BATCH_BYTES_KEY: &str = "max.batch.bytes";

/// Every setting of a topic, in the order of their keys.
pub const TOPIC_SETTINGS: [TopicSetting; 5] = [
    TopicSetting {
        key: BATCH_BYTES_KEY,
        default: BATCH_BYTES_DEFAULT as i64,
        min: 1024,
        max: BATCH_BYTES_MAX as i64,
        doc: "the largest batch taken, in bytes",
    },
    TopicSetting {
        key: "retention.bytes",
        default: -1,
        min: -1,
        max: i64::MAX,
        doc: "bytes kept of each partition; older segments are dropped; -1: all",
    },
    TopicSetting {
        key: "retention.ms",
        default: -1,
        min: -1,
        max: i64::MAX,
        doc: "milliseconds that records are kept after their append; -1: for ever",
    },
    TopicSetting {
        key: "segment.bytes",
        default: 256 << 20,
        min: SEGMENT_BYTES_MIN as i64,
        max: SEGMENT_BYTES_MAX as i64,
        doc: "the size at which a segment file is sealed, in bytes",
    },
    TopicSetting {
        key: "segment.ms",
        default: 7 * 24 * 3600 * 1000,
        min: 1000,
        max: i64::MAX,
        doc: "the age at which a segment file is sealed, in milliseconds",
    },
];

/// Why a setting is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such setting.
    #[error("no topic setting is called `{0}`")]
    Unknown(String),
    /// Not a number within the limits.
    #[error("`{key}` must be a number from {min} to {max}, not `{value}`")]
    Value {
        /// The setting.
        key: &'static str,
        /// The value given.
        value: String,
        /// The least allowed.
        min: i64,
        /// The greatest allowed.
        max: i64,
    },
}

/// A topic's settings, parsed: each has a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// The largest batch taken.
    pub batch_bytes_max: usize,
    /// Bytes kept of each partition.
    pub retention_bytes: Option<u64>,
    /// How long records are kept.
    pub retention_age: Option<Duration>,
    /// The size at which a segment is sealed.
    pub segment_bytes: u64,
    /// The age at which a segment is sealed.
    pub segment_age: Duration,
}

impl TopicConfig {
    /// What the settings that were made come to, with defaults for the others.
    ///
    /// # Errors
    /// Names the first setting that is unknown or not possible.
    pub fn parse(set: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let known = |key: &String| TOPIC_SETTINGS.iter().any(|setting| setting.key == key);
        if let Some(unknown) = set.keys().find(|key| !known(key)) {
            return Err(ConfigError::Unknown(unknown.clone()));
        }
        let mut values = [0; TOPIC_SETTINGS.len()];
        for (value, setting) in values.iter_mut().zip(&TOPIC_SETTINGS) {
            *value = setting.value(set.get(setting.key))?;
        }
        let [batch, bytes, age, segment, segment_age] = values;
        let milliseconds = |value: i64| u64::try_from(value).ok().map(Duration::from_millis);
        Ok(Self {
            batch_bytes_max: usize::try_from(batch).unwrap_or(BATCH_BYTES_DEFAULT),
            retention_bytes: u64::try_from(bytes).ok(),
            retention_age: milliseconds(age),
            segment_bytes: u64::try_from(segment).unwrap_or(SEGMENT_BYTES_MAX),
            segment_age: milliseconds(segment_age).unwrap_or(Duration::MAX),
        })
    }
}

impl TopicSetting {
    fn value(&self, given: Option<&String>) -> Result<i64, ConfigError> {
        let Some(given) = given else { return Ok(self.default) };
        let number = given.parse::<i64>().ok().filter(|n| (self.min..=self.max).contains(n));
        // As numbers are written, so that none takes more room than it needs.
        let number = number.filter(|number| number.to_string() == *given);
        number.ok_or_else(|| ConfigError::Value {
            key: self.key,
            value: given.clone(),
            min: self.min,
            max: self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<TopicConfig, ConfigError> {
        TopicConfig::parse(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        let config = TopicConfig::parse(&BTreeMap::new()).unwrap();
        assert_eq!((config.retention_bytes, config.retention_age), (None, None));
        assert_eq!(parse("retention.ms", "5000").unwrap().retention_age.unwrap().as_secs(), 5);
        assert_eq!(parse("retention.ms", "-1").unwrap().retention_age, None);
        assert!(matches!(parse("segment.bytes", "7"), Err(ConfigError::Value { .. })));
        assert!(matches!(parse("segment.bytes", "x"), Err(ConfigError::Value { .. })));
        assert!(matches!(parse("retention.ms", "+5"), Err(ConfigError::Value { .. })));
        assert!(matches!(parse("retention.ms", "0005"), Err(ConfigError::Value { .. })));
        assert_eq!(parse("segmnt", "7"), Err(ConfigError::Unknown("segmnt".to_owned())));
    }
}
