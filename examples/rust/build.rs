//! Compiles three networks for the target of this package.

use quernel_build::Model;

const FIXTURES: &str = "../../fixtures";

fn main() -> Result<(), quernel_build::Error> {
    Model::new(format!("{FIXTURES}/digits.onnx")).calibrate(format!("{FIXTURES}/digits_calib.npz")).compile()?;
    for (file, name) in [("two_inputs_three_outputs", "detector"), ("stateful", "cell")] {
        let path = format!("{FIXTURES}/features/{file}");
        Model::new(format!("{path}.onnx")).name(name).calibrate(format!("{path}.npz")).compile()?;
    }
    Ok(())
}
