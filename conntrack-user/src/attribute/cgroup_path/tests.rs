use super::*;

const UID: &str = "0a1b2c3d-1111-4222-8333-1234567890ab";
const UID_SLICE: &str = "0a1b2c3d_1111_4222_8333_1234567890ab";
const STATIC: &str = "a7a4b7cc60c0a1b5b7e6bd9a5f0f3e11";
const ID: &str = "3f4c1b6e0d1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4";

fn check(template: &str, expected: &Workload) {
    let path = template
        .replace("UID_SLICE", UID_SLICE)
        .replace("UID", UID)
        .replace("STATIC", STATIC)
        .replace("ID", ID);
    assert_eq!(&classify(path.as_bytes()), expected, "{path}");
}

fn pod_of(uid: &str, id: Option<&str>) -> Workload {
    Workload::Pod { uid: uid.to_owned(), container_id: id.map(str::to_owned) }
}

fn container_at(runtime: &'static str, path: &str) -> Workload {
    Workload::Container { runtime, id: ID.to_owned(), path: path.replace("ID", ID).into_bytes() }
}

fn service_at(path: &str) -> Workload {
    Workload::Service { path: path.as_bytes().to_vec() }
}

#[test]
fn pods_by_the_cgroupfs_driver() {
    let with = pod_of(UID, Some(ID));
    check("/kubepods/burstable/podUID/ID", &with);
    check("/kubepods/besteffort/podUID/ID", &with);
    check("/kubepods/podUID/ID", &with);
    check("/kubepods/podUID/crio-ID", &with);
    check("/kubepods/podUID/crio-conmon-ID", &with);
    check("/kubepods/podUID/ID (deleted)", &with);
    check("/kubepods/podUID/ID/init.scope/deep", &with);
    check("/kubepods/burstable/podUID", &pod_of(UID, None));
    check("/kubepods/burstable/podSTATIC/ID", &pod_of(STATIC, Some(ID)));
}

#[test]
fn pods_by_the_systemd_driver() {
    let with = pod_of(UID, Some(ID));
    for scope in ["cri-containerd-ID", "crio-ID", "docker-ID", "crio-conmon-ID"] {
        check(
            &format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_SLICE.slice/{scope}.scope"
            ),
            &with,
        );
        check(&format!("/kubepods.slice/kubepods-podUID_SLICE.slice/{scope}.scope"), &with);
    }
    check("/kubepods.slice/kubepods-podUID_SLICE.slice/crio-ID.scope/container", &with);
    check("/kubepods.slice/kubepods-podUID_SLICE.slice (deleted)", &pod_of(UID, None));
    check(
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podSTATIC.slice/cri-containerd-ID.scope",
        &pod_of(STATIC, Some(ID)),
    );
    check("/system.slice/containerd.service/kubepods-burstable-podUID_SLICE.slice:cri-containerd:ID", &with);
}

#[test]
fn pods_below_another_root() {
    let with = pod_of(UID, Some(ID));
    check("/docker/ID/kubelet/kubepods/besteffort/podUID/ID", &with);
    check(
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
         kubelet-kubepods-burstable-podUID_SLICE.slice/cri-containerd-ID.scope",
        &with,
    );
    check("/lxc.payload.node/kubepods/podUID/ID", &with);
}

#[test]
fn pods_seen_from_another_cgroup_namespace() {
    let with = pod_of(UID, Some(ID));
    check("/../../kubepods-besteffort-podUID_SLICE.slice/cri-containerd-ID.scope", &with);
    check("/../../podUID/ID", &with);
    check("/../../../burstable/podUID/ID", &with);
    check("/../../../../kubepods/podUID/ID", &with);
    check("/../../../../system.slice/sshd.service", &service_at("/system.slice/sshd.service"));
    check("/../..", &Workload::Root);
}

#[test]
fn the_outermost_pod_is_meant() {
    let inner = "11111111-2222-4333-8444-555555555555";
    check(&format!("/kubepods/podUID/ID/kubepods/pod{inner}/ID"), &pod_of(UID, Some(ID)));
}

#[test]
fn what_only_looks_like_a_pod() {
    for path in [
        "/user.slice/user-1000.slice/user@1000.service/kubepods/podUID/x",
        "/../../../user.slice/user-1000.slice/user@1000.service/kubepods-podUID_SLICE.slice/x",
        "/system.slice/evil.service/podUID/x",
        "/system.slice/evil.service/kubepods/podUID/x",
        "/system.slice/evil.service/kubepods.slice/kubepods-podUID_SLICE.slice/x",
        "/system.slice/run-r1.scope/kubepods/burstable/podUID/x",
        "/system.slice/evil.service/kubepods-podUID_SLICE.slice:cri-containerd:x",
        "/system.slice/evil.service/containerd.service/kubepods/podUID/x",
        "/podUID/x",
        "/burstable/podUID/x",
        "/kubepods/burstable/pod0a1b2c3d/x",
        "/kubepods/burstable/podUIDff/x",
        "/kubepods/podUID_SLICE/x",
        "/kubepods.slice/kubepods-podUID.slice/x",
        "/kubepods.slice/mykubepods-podUID_SLICE.slice/x",
        "/kubepods.slice/kubepods-podUID_SLICE.slices/x",
        "/kubepods/other/podUID/x",
    ] {
        let path = path.replace("UID_SLICE", UID_SLICE).replace("UID", UID);
        let found = classify(path.as_bytes());
        assert!(matches!(found, Workload::Service { .. }), "{path}: {found:?}");
    }
}

#[test]
fn containers() {
    check("/docker/ID", &container_at("docker", "/docker/ID"));
    check("/docker/ID/init.scope", &container_at("docker", "/docker/ID"));
    check("/system.slice/docker-ID.scope", &container_at("docker", "/system.slice/docker-ID.scope"));
    check("/system.slice:docker:ID", &container_at("docker", "/system.slice:docker:ID"));
    check(
        "/machine.slice/libpod-ID.scope/container",
        &container_at("podman", "/machine.slice/libpod-ID.scope"),
    );
    check(
        "/machine.slice/libpod-conmon-ID.scope",
        &container_at("podman", "/machine.slice/libpod-conmon-ID.scope"),
    );
    check("/libpod_parent/libpod-ID", &container_at("podman", "/libpod_parent/libpod-ID"));
    check("/default/ID", &container_at("containerd", "/default/ID"));
    check("/system.slice/nerdctl-ID.scope", &container_at("containerd", "/system.slice/nerdctl-ID.scope"));
    check("/system.slice/crio-ID.scope", &container_at("crio", "/system.slice/crio-ID.scope"));
    check("/docker/abc", &service_at("/docker/abc"));
    check("/ci/ID/init.scope", &container_at("unknown", "/ci/ID"));
}

#[test]
fn containers_that_share_a_network_are_one() {
    let pod = "/machine.slice/machine-libpod_pod_ID.slice";
    check(&format!("{pod}/libpod-{STATIC}{STATIC}.scope/container"), &container_at("podman", pod));
    check(&format!("{pod}/libpod-conmon-{STATIC}{STATIC}.scope"), &container_at("podman", pod));
    check(
        &format!("/libpod_parent/ID/libpod-{STATIC}{STATIC}"),
        &container_at("podman", "/libpod_parent/ID"),
    );
}

#[test]
fn a_system_in_a_container_is_one() {
    let whole =
        Workload::Container { runtime: "lxc", id: "web".to_owned(), path: b"/lxc.payload.web".to_vec() };
    check("/lxc.payload.web/init.scope", &whole);
    check("/lxc.payload.web/system.slice/nginx.service", &whole);
    check("/lxc.monitor.web", &service_at("/lxc.monitor.web"));
    check("/docker/ID/system.slice/nginx.service", &container_at("docker", "/docker/ID"));
}

#[test]
fn services_and_the_root() {
    check("/system.slice/sshd.service", &service_at("/system.slice/sshd.service"));
    check("/system.slice/app.service/worker/3", &service_at("/system.slice/app.service"));
    check(
        "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
        &service_at("/user.slice/user-1000.slice/user@1000.service"),
    );
    check("/batch/job7", &service_at("/batch/job7"));
    for root in ["/", "", "//", "/..", " (deleted)", "/ (deleted)"] {
        assert_eq!(classify(root.as_bytes()), Workload::Root, "{root:?}");
    }
}

#[test]
fn names_that_are_not_utf8_stay_distinct() {
    assert_eq!(classify(b"/a\xff\xfe"), Workload::Service { path: b"/a\xff\xfe".to_vec() });
    assert_eq!(printable(b"/a\xff\xc3\xa9"), "/a\u{fffd}ff\u{e9}");
    assert_ne!(printable(b"/a\xff"), printable(b"/a\xfe"));
    assert_eq!(printable(br"/system-serial\x2dgetty.slice"), r"/system-serial\x2dgetty.slice");
    assert_eq!(printable(b"/a\x1b[2J\n"), "/a\u{fffd}1b[2J\u{fffd}0a");
    assert_ne!(printable("/a\u{fffd}ff".as_bytes()), printable(b"/a\xff"));
}

/// Numerical Recipes' generator: the same inputs on every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// A path of plausible pieces, some of them damaged.
    fn path(&mut self) -> Vec<u8> {
        #[rustfmt::skip]
        const PIECES: [&str; 30] = [
            "/", "/", "/", "/..", "kubepods", "burstable", "besteffort", "pod", "UID", "UID_SLICE", "STATIC",
            "ID", ".slice", ".scope", ".service", "-", ":", "cri-containerd-", "crio-conmon-", "libpod-", "docker",
            "user.slice", "kubepods-pod", " (deleted)", "/kubepods/besteffort", "/kubepods", "/podUID", "/podSTATIC",
            "/kubepods-podUID_SLICE.slice", "/kubelet-kubepods-burstable-podSTATIC.slice",
        ];
        let mut path = Vec::new();
        for _ in 0..self.below(14) {
            path.extend_from_slice(PIECES[self.below(PIECES.len())].as_bytes());
        }
        let mut path = String::from_utf8(path)
            .unwrap()
            .replace("UID_SLICE", UID_SLICE)
            .replace("UID", UID)
            .replace("STATIC", STATIC)
            .replace("ID", ID)
            .into_bytes();
        for _ in 0..self.below(3) {
            if !path.is_empty() {
                let at = self.below(path.len());
                match self.below(3) {
                    0 => path[at] = u8::try_from(self.below(256)).unwrap(),
                    1 => drop(path.remove(at)),
                    _ => path.truncate(at),
                }
            }
        }
        path
    }
}

#[test]
fn never_a_pod_that_is_not_in_the_path() {
    let mut random = Lcg(1);
    let mut pods = 0;
    for _ in 0..200_000 {
        let path = random.path();
        if let Workload::Pod { uid, .. } = classify(&path) {
            pods += 1;
            assert!(pod_uid::is_pod_uid(uid.as_bytes()));
            let slice = uid.replace('-', "_");
            let holds = |text: &str| path.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!path.starts_with(b"/user.slice/"), "{path:?}");
            assert!(holds(&format!("pod{uid}")) || holds(&format!("pod{slice}")), "{uid} from {path:?}");
        }
        let printed = printable(&path);
        assert!(printed.len() >= path.len());
    }
    assert!(pods > 5_000, "the generator made only {pods} pods: it proves nothing");
}

#[test]
fn any_bytes_are_survived() {
    let mut random = Lcg(7);
    for _ in 0..20_000 {
        let length = random.below(64);
        let path: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        assert!(!matches!(classify(&path), Workload::Pod { .. }));
    }
    let long = [b"/kubepods/x".repeat(1000), b"\xff".repeat(4096)].concat();
    assert!(matches!(classify(&long), Workload::Service { .. }));
}
