//! What was measured: percentiles, rows of a table, and the same as JSON.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde_json::{json, Value};

use crate::telemetry;

/// Times in microseconds, up to ten minutes, to three digits.
pub(super) struct Times(Mutex<Histogram<u64>>);

const LONGEST_US: u64 = 600_000_000;

impl Times {
    pub fn new() -> Result<Times, String> {
        let histogram = Histogram::new_with_max(LONGEST_US, 3).map_err(|e| e.to_string())?;
        Ok(Times(Mutex::new(histogram)))
    }

    pub fn add(&self, us: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
    }

    pub fn quantiles(&self) -> Quantiles {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |q| ms(histogram.value_at_quantile(q));
        Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()) }
    }

    /// As above; then it is as new.
    pub fn take(&self) -> Quantiles {
        let found = self.quantiles();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reset();
        found
    }
}

/// Of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What one run of a bench found out.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<(String, String, Value)>,
}

impl Report {
    /// A number with its unit.
    pub fn number(&mut self, what: &str, value: f64, unit: &str) {
        let digits = if value >= 100.0 { 0 } else { 2 };
        let text = format!("{value:.digits$} {unit}");
        self.rows.push((what.to_owned(), text.trim_end().to_owned(), json!({"value": value, "unit": unit})));
    }

    /// A ratio of what was reached to the limit of the same run.
    pub fn ratio(&mut self, what: &str, reached: f64, limit: f64) {
        self.number(what, reached / limit.max(f64::MIN_POSITIVE), "");
    }

    /// Percentiles.
    pub fn times(&mut self, what: &str, times: Quantiles) {
        let Quantiles { p50, p90, p99, p999, max } = times;
        let text = format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms");
        let value = json!({"p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max, "unit": "ms"});
        self.rows.push((what.to_owned(), text, value));
    }

    /// As a table, or as one JSON object.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let fields = self.rows.iter().map(|(what, _, value)| (what.clone(), value.clone())).collect();
            telemetry::print(Value::Object(fields));
            return;
        }
        let width = self.rows.iter().map(|(what, _, _)| what.chars().count()).max().unwrap_or(0);
        for (what, text, _) in &self.rows {
            telemetry::print(format_args!("{what:width$}  {text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let times = Times::new().unwrap();
        (1..=1000).for_each(|ms| times.add(ms * 1000));
        let found = times.quantiles();
        for (value, wanted) in [(found.p50, 500.0), (found.p99, 990.0), (found.max, 1000.0)] {
            assert!((value - wanted).abs() / wanted < 0.002, "{value} is not {wanted}");
        }
    }
}
