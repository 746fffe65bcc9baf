//! `cargo xtask proto`: the Rust form of the ONNX messages, made from our own description of them. Neither a build
//! script nor `protoc` is involved in building Quernel; the generated file is committed.

use std::fs;

const SCHEMA: &str = "crates/quernel-onnx/proto/onnx.proto";
const GENERATED: &str = "crates/quernel-onnx/src/generated.rs";

pub fn run(arguments: &[String]) -> Result<(), String> {
    let only_check = match arguments {
        [] => false,
        [one] if one == "--check" => true,
        _ => return Err("the only argument is --check".into()),
    };
    let contents = generate()?;
    let path = crate::root().join(GENERATED);
    if fs::read_to_string(&path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    if only_check {
        return Err(format!("{GENERATED} is stale; `cargo xtask proto` writes it"));
    }
    fs::write(&path, contents).map_err(|why| format!("{GENERATED} cannot be written: {why}"))?;
    eprintln!("wrote {GENERATED}");
    Ok(())
}

fn generate() -> Result<String, String> {
    let schema = crate::root().join(SCHEMA);
    let folder = schema.parent().unwrap_or(crate::root());
    let messages = protox::compile([&schema], [folder]).map_err(|why| why.to_string())?;
    let mut config = prost_build::Config::new();
    let modules = messages.file.into_iter().map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file)).collect();
    let mut files = config.generate(modules).map_err(|why| why.to_string())?.into_values();
    let body = files.next().ok_or("the schema makes no code")?;
    Ok(format!("// Written by `cargo xtask proto` from proto/onnx.proto; do not edit.\n\n{body}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_messages_are_those_of_the_schema() {
        super::run(&["--check".to_owned()]).unwrap();
    }
}
