//! The rows of the load bench as a table, as JSON, and as a page with plots.
//!
//! It knows neither servers nor requests. **Invariant:** all three show the same figures.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::measure::Sample;

/// Which measurement a row is.
pub(crate) struct Row {
    pub(crate) name: String,
    kind: String,
    connections: usize,
}

impl Row {
    pub(crate) fn named(kind: &str, connections: usize) -> Self {
        let s = if connections == 1 { "" } else { "s" };
        Self {
            name: format!("{kind}, {connections} connection{s}"),
            kind: kind.to_owned(),
            connections,
        }
    }
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(formatter, "≥ {bar}"),
            Self::AtMost(bar) => write!(formatter, "≤ {bar}"),
        }
    }
}

/// All rows so far, and what the design has targets for.
pub(crate) struct Report {
    pub(crate) f: f64,
    rows: Vec<Value>,
    bars: Vec<(String, f64, Bar)>,
}

impl Report {
    pub(crate) fn new(f: f64) -> Self {
        println!("F = {f:.0}/s");
        println!(
            "{:<48} {:>10} {:>8} {:>8} {:>8} {:>9} {:>7} {:>6}",
            "", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs", "/ floor", "F"
        );
        Self {
            f,
            rows: Vec::new(),
            bars: Vec::new(),
        }
    }

    /// Keeps a figure that has a target.
    pub(crate) fn add_bar(&mut self, name: &str, value: f64, bar: Bar) {
        self.bars.push((name.to_owned(), value, bar));
    }

    /// Prints and keeps a row. `floor_cpu` is the floor's CPU a request, `to_f` how many times F the rate
    /// of durable writes is.
    pub(crate) fn add(
        &mut self,
        row: &Row,
        sample: &Sample,
        floor_cpu: Option<f64>,
        to_f: Option<f64>,
    ) {
        let outcome = &sample.outcome;
        let rate = outcome.rate();
        let micros = |quantile| outcome.latency_at(quantile).as_secs_f64() * 1e6;
        let (p50, p99, p999) = (micros(0.5), micros(0.99), micros(0.999));
        let cpu = sample.cpu_each();
        let to_floor = floor_cpu.map(|floor| cpu / floor);
        let ratio = |ratio: Option<f64>| {
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let name = &row.name;
        println!(
            "{name:<48} {rate:>10.0} {p50:>8.0} {p99:>8.0} {p999:>8.0} {cpu:>9.2} {:>7} {:>6}",
            ratio(to_floor),
            ratio(to_f),
        );
        self.rows.push(json!({
            "name": row.name, "kind": row.kind, "connections": row.connections,
            "requests_per_second": rate,
            "p50_us": p50, "p99_us": p99, "p999_us": p999,
            "server_cpu_us": cpu, "to_floor": to_floor, "to_f": to_f,
        }));
    }

    /// Prints the targets; leaves `report.json` and `report.html` in `directory`.
    pub(crate) fn finish(&self, directory: &Path) {
        for (name, value, bar) in &self.bars {
            let missed = if bar.holds(*value) { "" } else { "  missed" };
            println!("{name:<48} {value:>10.2}  {bar}{missed}");
        }
        fs::create_dir_all(directory).unwrap();
        let bar = |(name, value, bar): &(String, f64, Bar)| json!({ "name": name, "value": value, "bar": bar.to_string() });
        let bars: Vec<_> = self.bars.iter().map(bar).collect();
        let report = json!({ "f": self.f, "rows": self.rows, "bars": bars });
        let text = serde_json::to_string_pretty(&report).unwrap();
        fs::write(directory.join("report.json"), text).unwrap();
        fs::write(directory.join("report.html"), self.page()).unwrap();
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "<!doctype html><html lang=en><meta charset=utf-8><title>digestd under load</title>\
             <style>body{font:16px/1.4 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}\
             td,th{padding:.2rem .8rem;text-align:right}td:first-child{text-align:left}\
             tr:nth-child(even){background:#8881}figure{display:inline-block;margin:1rem}\
             svg{background:#8881}text{font-size:11px;fill:currentColor}\
             :root{color-scheme:light dark}</style><h1>digestd under load</h1>",
        );
        let _ = write!(page, "<p>F = {:.0} syncs a second", self.f);
        page += "<table><tr><th><th>requests/s<th>p50 µs<th>p99 µs<th>p99.9 µs<th>CPU µs<th>/ floor<th>F";
        for row in &self.rows {
            let _ = write!(page, "<tr><td>{}", row["name"].as_str().unwrap());
            for (column, digits) in [
                ("requests_per_second", 0),
                ("p50_us", 0),
                ("p99_us", 0),
                ("p999_us", 0),
                ("server_cpu_us", 2),
                ("to_floor", 2),
                ("to_f", 2),
            ] {
                page += "<td>";
                if let Some(value) = row[column].as_f64() {
                    let _ = write!(page, "{value:.digits$}");
                }
            }
        }
        page += "</table><h2>Targets</h2><table>";
        for (name, value, bar) in &self.bars {
            let _ = write!(page, "<tr><td>{name}<td>{value:.2}<td>{bar}");
        }
        page += "</table>";
        for (column, title) in [
            ("requests_per_second", "requests a second"),
            ("p50_us", "p50, µs"),
            ("p99_us", "p99, µs"),
        ] {
            for kind in ["floor", "GET hit", "POST unique 90 B"] {
                page += &self.plot(kind, column, title);
            }
        }
        page
    }

    /// Bars over connections.
    fn plot(&self, kind: &str, column: &str, title: &str) -> String {
        let points: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row["kind"] == kind)
            .map(|row| {
                (
                    row["connections"].as_u64().unwrap(),
                    row[column].as_f64().unwrap(),
                )
            })
            .collect();
        let most = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let mut plot = format!(
            "<figure><figcaption>{kind}: {title}</figcaption><svg width=300 height=180 role=img \
             aria-label='{kind}: {title} by connections'>"
        );
        for (place, (connections, value)) in points.iter().enumerate() {
            let (x, height) = (20 + 70 * place, 130.0 * value / most);
            let y = 155.0 - height;
            let _ = write!(
                plot,
                "<rect x={x} y={y:.0} width=50 height={height:.0} fill=#47a></rect>\
                 <text x={x} y={:.0}>{value:.0}</text><text x={x} y=172>{connections}</text>",
                y - 4.0
            );
        }
        plot + "</svg></figure>"
    }
}
