//! The victim's p99 second by second, a line for each arm.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Curves are drawn from this on: a logarithm has no zero.
const LEAST_MS: f64 = 0.01;
const COLOURS: [RGBColor; 4] =
    [RGBColor(60, 160, 60), RGBColor(200, 50, 50), RGBColor(130, 130, 130), RGBColor(40, 90, 200)];

/// Each curve with its name, milliseconds by second. `begin`: the second in which the culprit
/// begins.
pub fn write(path: &Path, title: &str, curves: &[(&str, Vec<f64>)], begin: usize) -> Result<()> {
    let all = || curves.iter().flat_map(|(_, curve)| curve.iter().copied());
    let low = all().fold(f64::INFINITY, f64::min).max(LEAST_MS) / 1.5;
    let high = all().fold(LEAST_MS, f64::max) * 1.5;
    let seconds = curves.iter().map(|(_, curve)| curve.len()).max().unwrap_or(0).max(1);
    let root = SVGBackend::new(path, (760, 380)).into_drawing_area();
    let drawn = (|| {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..seconds as f64, (low..high).log_scale())?;
        chart.configure_mesh().x_desc("seconds").y_desc("victim's p99, ms").draw()?;
        let begins = [(begin as f64, low), (begin as f64, high)];
        chart.draw_series(LineSeries::new(begins, BLACK.mix(0.4)))?.label("culprit begins");
        for ((name, curve), colour) in curves.iter().zip(COLOURS) {
            // A second's value stands in its middle.
            let points = curve.iter().enumerate();
            let points = points.map(|(second, ms)| (second as f64 + 0.5, ms.max(LEAST_MS)));
            let line = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        }
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        root.present()
    })();
    drawn.map_err(|error: DrawingAreaErrorKind<std::io::Error>| {
        anyhow!("{}: {error}", path.display())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_plot_has_a_line_for_each_arm_and_its_name() {
        let path = std::env::temp_dir().join(format!("tenantry-plot-{}.svg", std::process::id()));
        let curves = [("alone", vec![1.0, 0.0, 1.2]), ("together", vec![1.0, 90.0, 80.0])];
        super::write(&path, "T0: nothing", &curves, 1).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for part in ["<svg", "T0: nothing", "alone", "together", "culprit begins", "<polyline"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }
}
