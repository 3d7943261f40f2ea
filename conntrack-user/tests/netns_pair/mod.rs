//! Network namespaces for the tests to read.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use conntrack_user::drain::netns::in_namespace;
use conntrack_user::drain::presence;

/// A named namespace, deleted when dropped.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("kr-{name}-{}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let netns = Self(name);
        netns.run(&["ip", "link", "set", "lo", "up"]);
        netns
    }

    pub(crate) fn run(&self, command: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.0], command].concat())
    }

    /// Runs a command that this kernel may refuse; did it not?
    #[allow(dead_code, reason = "not every file of tests uses it")]
    pub(crate) fn tries(&self, command: &[&str]) -> bool {
        output(&[&["ip", "netns", "exec", &self.0], command].concat()).status.success()
    }

    fn nft(&self, rules: &str) {
        self.run(&["nft", rules]);
    }

    pub(crate) fn inum(&self) -> u32 {
        use std::os::unix::fs::MetadataExt;
        u32::try_from(std::fs::metadata(self.path()).unwrap().ino()).unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        in_namespace(&self.path(), self.inum(), f).unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn output(command: &[&str]) -> Output {
    Command::new(command[0]).args(&command[1..]).output().unwrap()
}

fn run(command: &[&str]) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Can the tests run here? Prints why not.
pub(crate) fn ready() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return false;
    }
    for tool in ["ip", "nft", "conntrack"] {
        if Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("skipped: no {tool}");
            return false;
        }
    }
    if !presence::conntrack_loaded(Path::new("/proc")) {
        println!("skipped: conntrack is not loaded");
        return false;
    }
    true
}

/// Two namespaces joined by a veth: 10.99.0.1 and .2, fd99::1 and ::2. Only the first tracks connections.
pub(crate) fn pair(name: &str) -> (Netns, Netns) {
    let (near, far) = (Netns::new(&format!("{name}-a")), Netns::new(&format!("{name}-b")));
    near.run(&["ip", "link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", &far.0]);
    for (netns, device, host) in [(&near, "near0", "1"), (&far, "far0", "2")] {
        netns.run(&["ip", "addr", "add", &format!("10.99.0.{host}/24"), "dev", device]);
        netns.run(&["ip", "addr", "add", &format!("fd99::{host}/64"), "dev", device, "nodad"]);
        netns.run(&["ip", "link", "set", device, "up"]);
    }
    near.nft(
        "table inet t {
            chain raw { type filter hook output priority raw; udp dport 4007 ct zone set 7; }
            chain nat { type nat hook output priority -100; ip daddr 10.99.0.2 udp dport 5353 dnat ip to 10.99.0.2:53; }
            chain out { type filter hook output priority 0; ct state new counter; udp dport 4042 ct mark set 0x2a; }
        }",
    );
    (near, far)
}
