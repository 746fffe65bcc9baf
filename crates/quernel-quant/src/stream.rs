//! Rows of a large array, read as they are asked for: memory holds a few rows, whatever the length of the file.
//!
//! Archives are compressed, so a thread of its own reads on ahead; going back begins again from the front.

use crate::arrays;
use quernel_ir::{Code, Diagnostic};
use std::{
    path::PathBuf,
    sync::{
        Mutex,
        mpsc::{Receiver, sync_channel},
    },
};

/// Rows that are read ahead.
const AHEAD: usize = 4;

/// The bytes of a row, or why there is none.
type Row = Result<Vec<u8>, String>;

/// An array in a file.
#[derive(Debug)]
pub struct Stream {
    path: PathBuf,
    /// Name in the archive; empty for a file of one array.
    name: String,
    /// Elements of a row.
    per: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Row that the reader sends next.
    next: usize,
    reader: Option<Receiver<Row>>,
}

impl Stream {
    /// The array `name` of the file, in rows of `per` elements.
    pub fn new(path: PathBuf, name: String, per: usize) -> Self {
        Self { path, name, per, state: Mutex::default() }
    }

    /// The bytes of row `row`.
    pub fn row(&self, row: usize) -> Result<Vec<u8>, Diagnostic> {
        let bad = |message: String| {
            let file = self.path.display().to_string();
            Diagnostic::new(Code::SamplesUnreadable, message).in_file(file).at(format!("array {:?}", self.name))
        };
        let mut state = self.state.lock().map_err(|_| Diagnostic::bug("a reader of samples panicked"))?;
        if state.reader.is_none() || row < state.next {
            *state = State { next: 0, reader: Some(self.start()) };
        }
        let reader = state.reader.take().ok_or_else(|| Diagnostic::bug("no reader of samples"))?;
        let mut found = Vec::new();
        while state.next <= row {
            let sent = reader.recv().unwrap_or_else(|_| Err(format!("ends before row {row}")));
            found = sent.map_err(bad)?;
            state.next += 1;
        }
        state.reader = Some(reader);
        Ok(found)
    }

    /// A thread that sends the rows in order. It ends when nobody listens any more.
    fn start(&self) -> Receiver<Row> {
        let (send, receive) = sync_channel::<Row>(AHEAD);
        let (path, name, per) = (self.path.clone(), self.name.clone(), self.per.max(1));
        std::thread::spawn(move || {
            let read = arrays::rows(&path, &name, per, &mut |row| send.send(Ok(row)).is_ok());
            if let Err(why) = read {
                // Whoever has stopped listening does not ask why.
                let _ = send.send(Err(why));
            }
        });
        receive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::Scalar;

    #[test]
    fn rows_come_in_any_order_and_faults_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.npz");
        let (rows, per) = (50, 3);
        let data: Vec<u8> = (0..rows * per).flat_map(|i| (i as i16).to_le_bytes()).collect();
        std::fs::write(&path, arrays::write(&[("x".into(), vec![rows, per], Scalar::I16, data)]).expect("an archive")).expect("written");
        let s = Stream::new(path.clone(), "x".into(), per);
        for row in [0, 1, 7, 3, 3, 39, 0, 49] {
            let first = row * per;
            let want: Vec<u8> = (first..first + 3).flat_map(|i| (i as i16).to_le_bytes()).collect();
            assert_eq!(s.row(row).expect("a row"), want);
        }
        assert_eq!(s.row(50).expect_err("behind the end").code, Code::SamplesUnreadable);
        let lost = Stream::new(path, "y".into(), per);
        assert_eq!(lost.row(0).expect_err("no such array").code, Code::SamplesUnreadable);
    }
}
