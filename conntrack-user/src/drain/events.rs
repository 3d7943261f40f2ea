//! Records of rare facts from the ring buffer.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use bytes::Buf as _;
use conntrack_common::{Event, Tuple};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The consumer's end of the ring.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// Takes the ring.
    ///
    /// # Errors
    /// If the map is no ring buffer or cannot be mapped.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        Ok(Self { ring: map.try_into()? })
    }

    /// Waits for records, at most so long, and hands each on. Records not of the expected size are passed over:
    /// object and daemon are built as one, there are none.
    ///
    /// # Errors
    /// If the ring cannot be polled.
    pub fn wait(&mut self, at_most: Duration, mut each: impl FnMut(Event)) -> io::Result<()> {
        // SAFETY: the ring owns the fd and outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let timeout = Timespec::try_from(at_most).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(item) = self.ring.next() {
            if let Some(event) = decode(&item) {
                each(event);
            }
        }
        Ok(())
    }
}

/// One record, in the byte order of this machine.
fn decode(mut record: &[u8]) -> Option<Event> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    let r = &mut record;
    Some(Event {
        ktime_ns: r.get_u64_ne(),
        kind: r.get_u32_ne(),
        flags: r.get_u32_ne(),
        netns: r.get_u32_ne(),
        ifindex: r.get_u32_ne(),
        cgroup_id: r.get_u64_ne(),
        status: r.get_u32_ne(),
        token_netns: r.get_u32_ne(),
        token_ktime_ns: r.get_u64_ne(),
        token_kind: r.get_u32_ne(),
        suppressed: r.get_u32_ne(),
        orig: tuple(r),
        reply: tuple(r),
        account: r.get_u32_ne(),
        responder: r.get_u32_ne(),
    })
}

fn tuple(r: &mut &[u8]) -> Tuple {
    Tuple {
        saddr: [r.get_u64_ne(), r.get_u64_ne()],
        daddr: [r.get_u64_ne(), r.get_u64_ne()],
        sport: r.get_u16_ne(),
        dport: r.get_u16_ne(),
        l3num: r.get_u8(),
        protonum: r.get_u8(),
        pad: r.get_u16_ne(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_where_the_probe_put_it() {
        let bytes: Vec<u8> = (0..size_of::<Event>()).map(|i| i as u8).collect();
        let event = decode(&bytes).unwrap();
        // SAFETY: Event is repr(C) of integers without padding, and `bytes` has its size.
        let expected: Event = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        assert_eq!(format!("{event:?}"), format!("{expected:?}"));
        assert!(decode(&bytes[1..]).is_none());
    }
}
