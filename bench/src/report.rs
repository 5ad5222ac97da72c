//! What is printed: the same figures as JSON or as sentences.

use serde_json::{Map, Value, json};

use crate::{error::Error, tally::Latencies};

/// The quantiles of every latency, with their names in the report.
const QUANTILES: [(&str, f64); 4] =
    [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999), ("p9999_us", 0.9999)];

/// The figures of a run, by name.
pub(crate) struct Report {
    figures: Map<String, Value>,
    lines: Vec<(String, String)>,
    /// What is to be said when they have been printed.
    pub(crate) failure: Option<Error>,
}

impl Report {
    /// Of a run of so many seconds.
    pub(crate) fn new() -> Self {
        Self { figures: Map::new(), lines: Vec::new(), failure: None }
    }

    /// A figure, and how people read it.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.lines.push((name.replace('_', " "), text));
        self.figures.insert(name.to_owned(), value);
    }

    /// Quantiles, greatest and count of latencies.
    pub(crate) fn set_latencies(&mut self, latencies: &Latencies) {
        for (name, quantile) in QUANTILES {
            self.set(name, rounded(latencies.quantile_us(quantile), 10.0));
        }
        self.set("max_us", rounded(latencies.max_us(), 10.0));
        self.set("count", latencies.count());
    }

    /// How much a second, in records and their bytes.
    pub(crate) fn set_throughput(&mut self, records: u64, bytes: u64, seconds: f64) {
        let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        self.set("records_per_s", rounded(per_second(records), 10.0));
        self.set("bytes_per_s", rounded(per_second(bytes), 1.0));
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.figures.clone())
    }

    /// One line a figure.
    pub(crate) fn sentences(&self) -> String {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        self.lines.iter().map(|(name, text)| format!("{name:<width$}  {text}\n")).collect()
    }
}

/// `value` in units of one `parts`th.
fn rounded(value: f64, parts: f64) -> Value {
    json!((value * parts).round() / parts)
}
