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

/// A row, or why there is none.
type Row = Result<Vec<f32>, String>;

/// An array in a file.
#[derive(Debug)]
pub struct Stream {
    path: PathBuf,
    /// Name in the archive; empty for a file of one array.
    name: String,
    /// Elements of a row, and rows.
    per: usize,
    rows: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Row that the reader sends next.
    next: usize,
    reader: Option<Receiver<Row>>,
}

impl Stream {
    /// The array `name` of the file, `rows` rows of `per` elements.
    pub fn new(path: PathBuf, name: String, rows: usize, per: usize) -> Self {
        Self { path, name, per, rows, state: Mutex::default() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.per
    }

    /// Row `row`; all elements are finite.
    pub fn row(&self, row: usize) -> Result<Vec<f32>, Diagnostic> {
        let bad = |code, message: String| {
            Diagnostic::new(code, message).in_file(self.path.display().to_string()).at(format!("array {:?}", self.name))
        };
        let mut state = self.state.lock().map_err(|_| Diagnostic::bug("a reader of samples panicked"))?;
        if state.reader.is_none() || row < state.next {
            *state = State { next: 0, reader: Some(self.start()) };
        }
        let reader = state.reader.take().ok_or_else(|| Diagnostic::bug("no reader of samples"))?;
        let mut found = Vec::new();
        while state.next <= row {
            let sent = reader.recv().unwrap_or_else(|_| Err(format!("ends before row {row}")));
            found = sent.map_err(|why| bad(Code::SamplesUnreadable, why))?;
            state.next += 1;
        }
        state.reader = Some(reader);
        match found.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(bad(Code::SampleValue, format!("sample {row} holds {} at element {at}", found[at]))),
            None => Ok(found),
        }
    }

    /// A thread that sends the rows in order. It ends when nobody listens any more.
    fn start(&self) -> Receiver<Row> {
        let (send, receive) = sync_channel::<Row>(AHEAD);
        let (path, name, per) = (self.path.clone(), self.name.clone(), self.per.max(1));
        std::thread::spawn(move || {
            let mut row = Vec::with_capacity(per);
            let read = arrays::elements(&path, &name, &mut |x| {
                row.push(x);
                row.len() < per || send.send(Ok(std::mem::replace(&mut row, Vec::with_capacity(per)))).is_ok()
            });
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

    #[test]
    fn rows_come_in_any_order_and_faults_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.npz");
        let (rows, per) = (50, 3);
        let mut data: Vec<f32> = (0..rows * per).map(|i| i as f32).collect();
        data[40 * per + 1] = f32::NAN;
        std::fs::write(&path, arrays::write(&[("x".into(), vec![rows, per], data)]).expect("an archive")).expect("written");
        let s = Stream::new(path.clone(), "x".into(), rows, per);
        for row in [0, 1, 7, 3, 3, 39, 0, 49] {
            let first = (row * per) as f32;
            assert_eq!(s.row(row).expect("a row"), [first, first + 1.0, first + 2.0]);
        }
        assert_eq!(s.row(40).expect_err("not a number").code, Code::SampleValue);
        assert_eq!(s.row(50).expect_err("behind the end").code, Code::SamplesUnreadable);
        let lost = Stream::new(path, "y".into(), rows, per);
        assert_eq!(lost.row(0).expect_err("no such array").code, Code::SamplesUnreadable);
    }
}
