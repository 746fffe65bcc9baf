//! The report as one page of HTML: tables and charts inline, nothing from elsewhere.

use crate::{Point, Report};
use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#1c1c1c}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{margin:.5em 1.5em .5em 0}svg text{font:11px system-ui,sans-serif}\
.front{fill:#0b6}.other{fill:#bbb}small{color:#666}";

/// The page. `points` are the compilations to chart; none, no chart.
pub fn page(report: &Report, points: &[Point]) -> String {
    let mut out = String::new();
    let name = escaped(&report.name);
    // Writing to a string does not fail.
    let _ =
        write!(out, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title><style>{STYLE}</style><h1>{name}</h1>");
    let facts = [
        ("target", report.target.clone()),
        ("multiply-accumulates", report.macs.to_string()),
        ("code", format!("{} bytes", report.code_bytes)),
        ("constants", format!("{} bytes", report.constant_bytes)),
        ("arena", format!("{} bytes (at least {})", report.arena_bytes, report.arena_lower_bound)),
        ("stack", format!("{} bytes", report.stack_bytes)),
        ("energy of a run", format!("{:.2} uJ by a model of 45 nm, not measured", report.energy_model.total_uj())),
    ];
    let facts = facts.map(|(k, v)| vec![escaped(k), escaped(&v)]);
    out += &table(&["", ""], &[], facts);
    if !points.is_empty() {
        out += "<h2>Widths</h2>";
        out += &chart(points, "bytes of code and constants", |p| p.object_bytes as f64);
        out += &chart(points, "microseconds of a run", |p| p.median_ns as f64 / 1e3);
        let rows = points.iter().map(|p| {
            let sqnr = if p.sqnr_db.is_finite() { format!("{:.1}", p.sqnr_db) } else { String::new() };
            let top1 = p.top1.map_or_else(String::new, |t| format!("{t:.2}"));
            let time = format!("{:.2}", p.median_ns as f64 / 1e3);
            let energy = format!("{:.2}", p.model_uj);
            let front = if p.on_front { "yes" } else { "" };
            vec![escaped(&p.bits), p.weight_bytes.to_string(), p.object_bytes.to_string(), time, energy, top1, sqnr, front.into()]
        });
        let header = ["bits", "weights, bytes", "object, bytes", "us", "uJ (model)", "top-1 %", "SQNR dB", "on the front"];
        out += &table(&header, &[1, 2, 3, 4, 5, 6], rows);
    }
    out += "<h2>Layers</h2>";
    let db = |x: Option<f64>| x.filter(|x| x.is_finite()).map_or_else(String::new, |x| format!("{x:.1}"));
    let rows = report.layers.iter().map(|l| {
        let bits = if l.integer { l.weight_bits.map_or_else(|| "int".into(), |b| b.to_string()) } else { "float".into() };
        let e = l.error.as_ref();
        vec![
            escaped(&l.name),
            escaped(&l.kind),
            bits,
            escaped(&l.kernel),
            l.macs.to_string(),
            l.weight_bytes.to_string(),
            db(e.map(|e| e.local_db)),
            db(e.map(|e| e.accumulated_db)),
            e.map_or_else(String::new, |e| format!("{:.3}", e.clipped_percent)),
            e.map_or_else(String::new, |e| e.values.name().into()),
            l.remarks.iter().map(|r| escaped(r)).collect::<Vec<_>>().join("<br>"),
        ]
    });
    let header = ["layer", "operator", "bits", "kernel", "MACs", "weights", "local dB", "total dB", "clipped %", "values", "remarks"];
    out += &table(&header, &[4, 5, 6, 7, 8], rows);
    if !report.remarks.is_empty() {
        out += "<h2>Remarks</h2><ul>";
        report.remarks.iter().for_each(|r| {
            let _ = write!(out, "<li>{}</li>", escaped(r));
        });
        out += "</ul>";
    }
    out += "</html>\n";
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table of cells that are HTML already; columns in `right` hold numbers.
fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let class = |i: usize| if right.contains(&i) { " class=\"n\"" } else { "" };
    let mut out = String::from("<table>");
    if header.iter().any(|h| !h.is_empty()) {
        out += "<tr>";
        header.iter().enumerate().for_each(|(i, h)| {
            let _ = write!(out, "<th{}>{}</th>", class(i), escaped(h));
        });
        out += "</tr>";
    }
    for row in rows {
        out += "<tr>";
        row.iter().enumerate().for_each(|(i, cell)| {
            let _ = write!(out, "<td{}>{cell}</td>", class(i));
        });
        out += "</tr>";
    }
    out + "</table>"
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 34.0;

/// Accuracy, or signal to noise, over a cost. Points that no other beats are green.
fn chart(points: &[Point], label: &str, cost: impl Fn(&Point) -> f64) -> String {
    let accuracy = points.iter().all(|p| p.top1.is_some());
    // The float network has no noise: it is drawn at the top.
    let best = points.iter().map(|p| p.sqnr_db).filter(|x| x.is_finite()).fold(0.0, f64::max);
    let value = |p: &Point| if accuracy { p.top1.unwrap_or(0.0) } else { p.sqnr_db.min(best + 6.0) };
    let span = |values: Vec<f64>| {
        let (lo, hi) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        let pad = ((hi - lo) * 0.08).max(hi.abs() * 1e-3).max(1e-9);
        (lo - pad, hi + pad)
    };
    let (x, y) = (span(points.iter().map(&cost).collect()), span(points.iter().map(value).collect()));
    let at = |p: &Point| {
        let across = (cost(p) - x.0) / (x.1 - x.0);
        let up = (value(p) - y.0) / (y.1 - y.0);
        (LEFT + across * (WIDTH - LEFT - 10.0), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - 10.0))
    };
    let mut out = format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(label));
    let (floor, end) = (HEIGHT - BOTTOM, WIDTH - 10.0);
    let _ = write!(out, "<path d=\"M{LEFT} 10V{floor}H{end}\" fill=\"none\" stroke=\"#888\"/>");
    let measure = if accuracy { "top-1 %" } else { "SQNR dB" };
    let _ = write!(out, "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">{}</text>", HEIGHT - 4.0, escaped(label));
    let _ = write!(out, "<text x=\"{}\" y=\"20\">{measure}</text>", LEFT + 6.0);
    for (tick, up) in [(y.0, floor), (y.1, 18.0)] {
        let _ = write!(out, "<text x=\"{}\" y=\"{up}\" text-anchor=\"end\">{tick:.1}</text>", LEFT - 5.0);
    }
    for (tick, across, anchor) in [(x.0, LEFT, "start"), (x.1, end, "end")] {
        let _ = write!(out, "<text x=\"{across}\" y=\"{}\" text-anchor=\"{anchor}\">{tick:.0}</text>", floor + 14.0);
    }
    let mut front: Vec<&Point> = points.iter().filter(|p| p.on_front).collect();
    front.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let line: Vec<String> = front.iter().map(|p| format!("{:.1},{:.1}", at(p).0, at(p).1)).collect();
    let _ = write!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#0b6\" stroke-dasharray=\"3 3\"/>", line.join(" "));
    for p in points {
        let ((cx, cy), class) = (at(p), if p.on_front { "front" } else { "other" });
        let _ = write!(out, "<circle class=\"{class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"><title>{}</title></circle>", escaped(&p.bits));
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", cx + 6.0, cy - 5.0, escaped(&p.bits));
    }
    out + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(bits: &str, top1: Option<f64>, object_bytes: usize, on_front: bool) -> Point {
        let (weight_bytes, arena_bytes, median_ns, model_uj) = (object_bytes / 2, 64, object_bytes as u64, 1.0);
        Point { bits: bits.into(), weight_bytes, object_bytes, arena_bytes, median_ns, model_uj, top1, sqnr_db: f64::INFINITY, on_front }
    }

    #[test]
    fn charts_hold_every_point_inside_their_frame() {
        for points in [
            vec![point("8", Some(90.0), 1000, true), point("<4>", Some(80.0), 500, true), point("2", Some(10.0), 900, false)],
            vec![point("float", None, 5, true)],
        ] {
            let svg = chart(&points, "bytes & more", |p| p.object_bytes as f64);
            assert_eq!(svg.matches("<circle").count(), points.len());
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<4>") && !svg.contains("& "), "{svg}");
            for part in svg.split("cx=\"").skip(1) {
                let x: f64 = part.split('"').next().and_then(|x| x.parse().ok()).expect("a number");
                assert!((LEFT..=WIDTH).contains(&x), "{x}");
            }
        }
    }
}
