use super::setup;
use crate::tables::table;
use quernel::{
    Failure,
    ir::{Code, Diagnostic},
};

pub fn run(code: Option<&str>) -> Result<(), Failure> {
    let Some(text) = code else {
        let rows = Code::ALL.iter().map(|c| vec![c.to_string(), c.title().to_owned()]);
        return setup::print(&format!("{}\n", table(&["code", "meaning"], &[], rows)));
    };
    let wanted = text.to_ascii_uppercase();
    let digits = wanted.strip_prefix("QN").unwrap_or(&wanted);
    let code = digits.parse().ok().and_then(|n: u16| Code::ALL.iter().find(|c| c.number() == n));
    let Some(code) = code else {
        return Err(Diagnostic::new(Code::BadOption, format!("no error has the number {text:?}"))
            .help("`quernel explain` lists all")
            .into());
    };
    setup::print(&format!("{code}: {}\n\n{}\n", code.title(), code.explanation()))
}
