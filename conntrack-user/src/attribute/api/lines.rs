//! A stream of bytes cut into lines, none longer than allowed.

/// Bytes of which the last line has not ended yet.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no end of it.
    searched: usize,
    longest: usize,
}

/// A line is longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// Lines of at most `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, searched: 0, longest }
    }

    /// Adds what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > self.longest / 4 {
            // One large line must not be held on to for life.
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Has a line begun that has not ended?
    pub(super) fn is_cut(&self) -> bool {
        !self.buffer[self.start..].iter().all(u8::is_ascii_whitespace)
    }

    /// The next whole line, without its end; empty ones are left out. None: it has not come yet.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
            let Some(end) = end.map(|at| self.searched + at) else {
                self.searched = self.buffer.len();
                return if self.searched - self.start > self.longest { Err(TooLong) } else { Ok(None) };
            };
            let line = self.start..end;
            (self.start, self.searched) = (end + 1, end + 1);
            if line.len() > self.longest {
                return Err(TooLong);
            }
            if !self.buffer[line.clone()].iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(&self.buffer[line]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let text = b"one\n\n \r\ntwo three\nfour";
        for size in 1..text.len() {
            let mut lines = Lines::new(100);
            let mut seen = Vec::new();
            for part in text.chunks(size) {
                lines.push(part);
                while let Some(line) = lines.next().unwrap() {
                    seen.push(line.to_vec());
                }
            }
            assert!(lines.is_cut());
            lines.push(b"\n \n");
            assert_eq!(lines.next().unwrap(), Some(&b"four"[..]));
            assert!(lines.next().unwrap().is_none() && !lines.is_cut());
            assert_eq!(seen, [b"one".to_vec(), b"two three".to_vec()], "by {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::new(10);
        lines.push(b"0123456789");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"0");
        assert_eq!(lines.next(), Err(TooLong));
        let mut lines = Lines::new(3);
        lines.push(b"abcd\n");
        assert_eq!(lines.next(), Err(TooLong));
    }
}
