use super::setup;
use crate::{args::Export, messages::Messages};
use quernel::{Failure, artifacts};

pub fn run(a: &Export, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let exported = quernel::export(&compiler, &model, a.fake_quant, &mut |p| messages.progress(p))?;
    messages.remarks(&exported.remarks, false);
    if a.output.as_os_str() == "-" {
        return setup::print_bytes(&exported.bytes);
    }
    artifacts::apart([a.output.as_path()], &setup::read(&a.compiling, &model, &compiler))?;
    artifacts::save(&[(&a.output, &exported.bytes)])?;
    setup::print(&format!("wrote {}\n", a.output.display()))
}
