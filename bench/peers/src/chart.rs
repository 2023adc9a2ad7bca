//! The figures as bars: one group for each scenario and metric, one bar for each driver.

use std::fmt::Write as _;

use crate::drivers::Driver;
use crate::report::{Report, metrics, short};
use crate::series::Measured;
use crate::suites::Metric;

const WIDTH: usize = 880;
const LABEL_WIDTH: usize = 170;
const VALUE_WIDTH: usize = 150;
const BAR: usize = 16;
const GAP: usize = 6;
const HEAD: usize = 34;

/// An SVG that needs nothing but itself, light or dark as the page is.
pub(crate) fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 12;
    for measured in &report.measured {
        for metric in metrics(measured) {
            y = group(&mut body, y, measured, metric);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Medians of the measured systems\">\n<style>\n\
         text {{ font: 12px system-ui, sans-serif; fill: #1f2328 }}\n.head {{ font-weight: 600 }}\n\
         .peer {{ fill: #8c959f }}\n.ours {{ fill: #0969da }}\n.range {{ stroke: #1f2328; stroke-width: 1.5 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .range {{ stroke: #e6edf3 }} }}\n</style>\n{body}</svg>\n",
        height = y + 8
    )
}

fn group(body: &mut String, top: usize, measured: &Measured, metric: Metric) -> usize {
    let rows: Vec<(Driver, net_bench::Quartiles)> =
        measured.runs.iter().filter_map(|(driver, runs)| Some((*driver, runs.quartiles(metric)?))).collect();
    let most = rows.iter().map(|(_, q)| q.high).fold(f64::MIN_POSITIVE, f64::max);
    let better = if metric.less_is_better() { "less is better" } else { "more is better" };
    let title = format!("{} — {}{} ({better})", measured.suite.title(), measured.scenario.name, metric.suffix());
    let _ = writeln!(body, "<text class=\"head\" x=\"0\" y=\"{}\">{title}</text>", top + 14);
    let mut y = top + HEAD - 8;
    for (driver, quartiles) in &rows {
        let scale = |value: f64| value / most * (WIDTH - LABEL_WIDTH - VALUE_WIDTH) as f64;
        let class = if driver.is_ours() { "ours" } else { "peer" };
        let (middle, text) = (y + BAR / 2, y + BAR - 4);
        let width = scale(quartiles.median);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>\
             <line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            LABEL_WIDTH - 8,
            driver.name(),
            LABEL_WIDTH as f64 + scale(quartiles.low),
            LABEL_WIDTH as f64 + scale(quartiles.high),
            LABEL_WIDTH as f64 + scale(quartiles.high) + 8.0,
            short(quartiles.median),
        );
        y += BAR + GAP;
    }
    y + 10
}
