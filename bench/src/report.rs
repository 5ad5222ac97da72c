//! What is printed: the same figures as JSON or as sentences.

use serde_json::{Map, Value, json};

use crate::{error::Error, fio::Fio, tally::Latencies};

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

    /// A rate, share or time, to three digits behind the point.
    pub(crate) fn set_number(&mut self, name: &str, value: f64) {
        self.set(name, rounded(value, 1e3));
    }

    /// Which fio stands beside, or why none does.
    pub(crate) fn set_fio(&mut self, asked: bool, fio: Option<&Fio>) {
        let missing = if asked { "not installed" } else { "not asked for" };
        self.set("fio", fio.map_or(missing, |fio| fio.version.as_str()));
    }

    /// The median of the runs, and how far they are apart.
    pub(crate) fn set_spread(&mut self, name: &str, mut runs: Vec<f64>) {
        let in_order: Vec<Value> = runs.iter().map(|run| rounded(*run, 1e3)).collect();
        runs.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (runs.first(), runs.last()) else { return };
        let at = runs.len() / 2;
        let even = runs.len().is_multiple_of(2);
        let median = if even { f64::midpoint(runs[at - 1], runs[at]) } else { runs[at] };
        let [median, min, max] = [median, *min, *max].map(|figure| rounded(figure, 1e3));
        self.lines.push((name.replace('_', " "), format!("{median}  ({min} to {max})")));
        let spread = json!({ "median": median, "min": min, "max": max, "runs": in_order });
        self.figures.insert(name.to_owned(), spread);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        let mut report = Report::new();
        report.set_spread("odd", vec![3.0, 1.0, 10.0]);
        report.set_spread("even", vec![4.0, 1.0, 10.0, 2.0]);
        let odd = json!({ "median": 3.0, "min": 1.0, "max": 10.0, "runs": [3.0, 1.0, 10.0] });
        assert_eq!(report.json()["odd"], odd);
        assert_eq!(report.json()["even"]["median"], 3.0);
        assert_eq!(report.sentences(), "odd   3.0  (1.0 to 10.0)\neven  3.0  (1.0 to 10.0)\n");
    }
}
