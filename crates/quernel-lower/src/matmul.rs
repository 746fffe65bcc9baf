//! Products of two computed matrices.

use crate::{build::Build, view::View};
use quernel_ir::{Diagnostic, Value, infer::broadcast, program::What};

impl Build<'_> {
    pub fn matmul(&mut self, a: Value, b: Value, y: Value) -> Result<(), Diagnostic> {
        let (ad, bd) = (self.g.ty(a).dims.clone(), self.g.ty(b).dims.clone());
        let (a_lead, a_mat) = ad.split_at(ad.len().saturating_sub(2));
        let (b_lead, b_mat) = bd.split_at(bd.len().saturating_sub(2));
        let (mut m, k) = if a_mat.len() == 1 { (1, a_mat[0]) } else { (a_mat[0], a_mat[1]) };
        let n = if b_mat.len() == 1 { 1 } else { b_mat[1] };
        let lead = broadcast(a_lead, b_lead).unwrap_or_default();
        let mut batch: usize = lead.iter().product();
        let (a_view, mut a_batch) = self.batched(a, a_lead, a_mat, &lead);
        let (b_view, b_batch) = self.batched(b, b_lead, b_mat, &lead);
        if b_batch == 0 && a_batch != 0 {
            // One right operand: the rows of all batches are one matrix.
            (m, batch, a_batch) = (m * batch, 1, 0);
        }
        let identity: Vec<usize> = (0..self.g.ty(y).rank()).collect();
        let like = View::ordered(a_view.buf, &self.g.ty(y).dims, &identity);
        let to = self.result_like(y, &like);
        let (reads, writes) = (vec![self.dense_span(&a_view, 4), self.dense_span(&b_view, 4)], vec![self.dense_span(&to, 4)]);
        self.emit(What::MatMulFloat { batch, m, k, n, a_batch, b_batch }, reads, writes);
        Ok(())
    }

    /// An operand without gaps whose batches are either all of `lead` or one: its view and the elements between
    /// batches.
    fn batched(&mut self, v: Value, own: &[usize], matrix: &[usize], lead: &[usize]) -> (View, usize) {
        let size: usize = matrix.iter().product();
        let (mine, all): (usize, usize) = (own.iter().product(), lead.iter().product());
        if mine == 1 || mine == all {
            return (self.row_major(v), if mine == 1 { 0 } else { size });
        }
        let dims: Vec<usize> = lead.iter().chain(matrix).copied().collect();
        let from = self.place(v).expand(&dims);
        let buf = self.buffer(all * size * self.width(v));
        let to = View::row_major(buf, &dims);
        self.copy(&from, &to, self.width(v));
        (to, size)
    }
}
