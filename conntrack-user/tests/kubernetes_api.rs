//! The watch over pods against an API server that misbehaves in every way that could be thought of.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as the test does")]

mod fake_api;
#[path = "kubernetes_api/services.rs"]
mod services;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use conntrack_user::attribute::api::handle::ApiHandle;
use conntrack_user::attribute::api::settings::{Plan, Target};
use serde_json::json;

use fake_api::objects::{Folder, bookmark, line, list, pod, quiet, uid, well};
use fake_api::{Answer, Asked, Fake, NODE, Part, live, timing, until, word};

/// From one to the next.
fn pauses(asked: &[Asked]) -> Vec<Duration> {
    asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

async fn watched(
    name: &str,
    script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Fake, ApiHandle, Folder) {
    let folder = Folder::new(name);
    let fake = Fake::start(script).await;
    let handle = ApiHandle::watch(fake.plan(&folder.0), timing());
    (fake, handle, folder)
}

#[tokio::test]
async fn a_list_and_what_changes_after_it() {
    let (fake, handle, _folder) = watched("changes", |asked| {
        if !asked.is_watch() {
            return well(asked);
        }
        if asked.number > 1 {
            return quiet();
        }
        let changes = vec![line("ADDED", &pod(3)), line("DELETED", &pod(1)), bookmark(30), Part::Hang];
        Answer::ok(changes)
    })
    .await;
    until("the changes", || live(&handle) == ["cart-2", "cart-3"]).await;
    assert_eq!(word(&handle), "synced");
    assert_eq!(handle.latest().by_uid(&uid(1)).unwrap().name.name, "cart-1", "its name stays for a while");
    assert!(handle.latest().by_address("10.0.0.1".parse().unwrap()).is_none());
    until("the tombstone goes", || handle.latest().by_uid(&uid(1)).is_none()).await;
    until("the silent watch is made anew", || fake.asked().len() > 2).await;
    let asked = fake.asked();
    assert!(
        asked.iter().all(|a| a.url.starts_with("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&")),
        "{asked:?}"
    );
    assert!(asked.iter().all(|a| a.token == "t"));
    let parameter = |at: usize, name| asked[at].parameter(name);
    assert_eq!(
        (parameter(0, "limit").as_deref(), parameter(0, "resourceVersion").as_deref()),
        (Some("500"), Some("0"))
    );
    assert_eq!(parameter(1, "resourceVersion").as_deref(), Some("10"));
    assert_eq!(parameter(1, "allowWatchBookmarks").as_deref(), Some("true"));
    // From the bookmark on, without another list.
    assert!(asked[2].is_watch());
    assert_eq!(parameter(2, "resourceVersion").as_deref(), Some("30"));
    assert_eq!(word(&handle), "synced");
}

#[tokio::test]
async fn pages_are_put_together_and_shown_only_when_whole() {
    let (fake, handle, _folder) = watched("pages", |asked| match asked.parameter("continue").as_deref() {
        _ if asked.is_watch() => quiet(),
        None => Answer::json(list(0..500, "a=&b")),
        Some("a%3D%26b") if asked.number == 1 => {
            Answer::ok(vec![Part::Send(list([], "x")[..9].into()), Part::Break])
        }
        Some("a%3D%26b") => Answer::json(list(500..1000, "z")),
        Some("z") => Answer::json(list(1000..1001, "")),
        other => panic!("{other:?}"),
    })
    .await;
    until("the failed page", || handle.status().last_error.is_some()).await;
    until("all pages", || word(&handle) == "synced" && live(&handle).len() == 1001).await;
    assert_eq!(fake.asked().iter().filter(|a| a.parameter("continue").is_none() && !a.is_watch()).count(), 2);
}

/// Whatever the server does, known owners stay known, attempts stay few, and it ends well once the server does.
#[tokio::test]
async fn every_failure_leaves_what_was_known_and_is_over_when_the_server_is_well_again() {
    type Script = Box<dyn Fn(&Asked) -> Answer + Send + Sync>;
    // Name, the state it leads to, what the error says, what is answered.
    type Case = (&'static str, &'static str, &'static str, fn() -> Script);
    let cases: [Case; 15] = [
        ("401", "stale", "look at the token", || Box::new(|_| Answer::status(401))),
        ("403", "forbidden", "no right", || Box::new(|_| Answer::status(403))),
        ("410", "stale", "410", || Box::new(|_| Answer::status(410))),
        ("429", "stale", "too busy", || Box::new(|_| Answer::status(429))),
        ("500", "stale", "answers 500", || Box::new(|_| Answer::status(500))),
        ("html", "stale", "no sense", || Box::new(|_| Answer::json("<html>\n502 Bad Gateway</html>"))),
        ("empty", "stale", "no sense", || Box::new(|_| Answer::json(""))),
        ("no-list", "stale", "no sense", || Box::new(|_| Answer::json("{}"))),
        ("truncated", "stale", "no sense", || Box::new(|_| Answer::json(&list([1], "")[..60]))),
        ("broken-off", "stale", "answer broke off", || {
            Box::new(|_| Answer::ok(vec![Part::Send(list([1], "")[..60].into()), Part::Break]))
        }),
        ("no-answer", "stale", "no answer", || {
            Box::new(|_| Answer { delay: Duration::from_secs(60), ..Answer::status(200) })
        }),
        ("drips", "stale", "does not end", || {
            Box::new(|_| {
                let drip = || [Part::Send(" ".into()), Part::Wait(Duration::from_millis(100))];
                Answer::ok((0..100).flat_map(|_| drip()).collect())
            })
        }),
        ("page-loop", "stale", "followed by itself", || Box::new(|_| Answer::json(list([7], "same")))),
        ("gone-watch", "stale", "too old", || {
            Box::new(|asked| {
                let gone = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
                if asked.is_watch() {
                    Answer::ok(vec![line("ERROR", &gone)])
                } else {
                    Answer::json(list([1, 2], ""))
                }
            })
        }),
        ("nonsense-watch", "stale", "no sense", || {
            Box::new(|asked| {
                let nonsense = vec![Part::Send("{\"type\":\"ADDED\"}\n".into()), Part::Hang];
                if asked.is_watch() { Answer::ok(nonsense) } else { Answer::json(list([1, 2], "")) }
            })
        }),
    ];
    for (name, expected, says, ill) in cases {
        // 0: well; 1: ill; 2: well, with another pod.
        let phase = Arc::new(AtomicU16::new(0));
        let (script, ill) = (phase.clone(), ill());
        let (fake, handle, _folder) = watched(name, move |asked| match script.load(Ordering::Relaxed) {
            // The watch breaks off after a moment, or nothing would be asked again.
            0 if asked.is_watch() => Answer::ok(vec![Part::Wait(Duration::from_millis(100)), Part::Break]),
            0 => Answer::json(list([1, 2], "")),
            1 => ill(asked),
            _ if asked.is_watch() => quiet(),
            _ => Answer::json(list([1, 3], "")),
        })
        .await;
        until("synced", || word(&handle) == "synced" && live(&handle).len() == 2).await;
        phase.store(1, Ordering::Relaxed);
        let (began, before) = (Instant::now(), fake.asked().len());
        let ended = || {
            let status = handle.status();
            let said = status.last_error.as_ref().is_some_and(|error| error.contains(says));
            (began.elapsed() > Duration::from_secs(1) && status.state.word() == expected && said)
                .then_some(status)
        };
        let seen = std::cell::RefCell::new(None);
        until(name, || {
            *seen.borrow_mut() = ended();
            seen.borrow().is_some()
        })
        .await;
        let status = seen.into_inner().unwrap();
        let error = status.last_error.unwrap();
        println!("{name}: {error}");
        assert!(!error.contains('\n') && error.len() < 300, "{name}: {error}");
        assert_eq!(status.state.success(), Some(false), "{name}");
        if !name.ends_with("-watch") {
            assert!(status.state.stale_for(Instant::now()).unwrap() > Duration::from_millis(300), "{name}");
        }
        assert_eq!(live(&handle), ["cart-1", "cart-2"], "{name}: what was known stays known");
        // These take their time by themselves.
        if !["no-answer", "drips", "page-loop"].contains(&name) {
            until(name, || fake.asked().len() - before >= 12).await;
            // Once the pause has doubled to 200 ms, at least half of it is waited.
            let lists: Vec<_> = fake.asked()[before..].iter().filter(|a| !a.is_watch()).cloned().collect();
            let pauses = pauses(&lists);
            assert!(
                pauses.iter().skip(5).all(|&pause| pause >= Duration::from_millis(100)),
                "{name}: {pauses:?}"
            );
        }
        phase.store(2, Ordering::Relaxed);
        until(name, || word(&handle) == "synced" && live(&handle) == ["cart-1", "cart-3"]).await;
        assert_eq!(
            handle.status().last_error.as_deref(),
            Some(error.as_str()),
            "{name}: said when over, too"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_asked_again_and_found_again() {
    let folder = Folder::new("gone");
    let handle = {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = fake_api::kubeconfig(&folder.0, port);
        ApiHandle::watch(Plan { target: Target::Kubeconfig(file), node: NODE.into() }, timing())
    };
    until("refused", || handle.status().state.success() == Some(false)).await;
    assert_eq!(word(&handle), "connecting", "nothing was ever known");
    assert!(handle.status().last_error.unwrap().contains("refused"), "{:?}", handle.status());
    // It comes back at another address, and the kubeconfig says so.
    let fake = Fake::start(well).await;
    fake.plan(&folder.0);
    until("found", || word(&handle) == "synced").await;
}

/// What a proxy may make of a watch: it answers, and tells nothing for ever.
#[tokio::test]
async fn watches_that_bring_nothing_are_checked_by_a_list() {
    for (name, barren) in [
        ("cut", (|| Answer::json("{}")) as fn() -> Answer),
        ("empty", || Answer::json("")),
        ("drops", || {
            let drop = || [Part::Send(" ".into()), Part::Wait(Duration::from_millis(50))];
            Answer::ok((0..1_000).flat_map(|_| drop()).collect())
        }),
    ] {
        let (_fake, handle, _folder) = watched(name, move |asked| match asked.number {
            0 => well(asked),
            _ if asked.is_watch() => barren(),
            _ => Answer::json(list([1, 3], "")),
        })
        .await;
        until(name, || live(&handle) == ["cart-1", "cart-3"]).await;
    }
}

#[tokio::test]
async fn no_program_is_run_because_a_kubeconfig_says_so() {
    let folder = Folder::new("exec");
    let ran = folder.0.join("ran");
    let file = fake_api::kubeconfig(&folder.0, 1);
    let text = std::fs::read_to_string(&file).unwrap();
    let exec = format!(
        "user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: touch, args: [{}]}}}}",
        ran.display()
    );
    std::fs::write(&file, text.replace("user: {token: t}", &exec)).unwrap();
    let handle = ApiHandle::watch(Plan { target: Target::Kubeconfig(file), node: NODE.into() }, timing());
    until("refused", || handle.status().last_error.is_some()).await;
    let error = handle.status().last_error.unwrap();
    assert!(error.contains("tokenFile") && !ran.exists(), "{error}");
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_no_busy_loop() {
    let (fake, handle, _folder) =
        watched("short", |asked| if asked.is_watch() { Answer::ok(Vec::new()) } else { well(asked) }).await;
    until("synced", || word(&handle) == "synced").await;
    until("a few more", || fake.asked().len() >= 12).await;
    // Once the pause has doubled to 100 ms, at least half of it is waited.
    // Every few that brought nothing a list tells whether that can be true.
    let lists = fake.asked().iter().filter(|asked| !asked.is_watch()).count();
    assert!((2..=4).contains(&lists), "{lists}");
    let watches: Vec<_> = fake.asked().into_iter().filter(Asked::is_watch).collect();
    let pauses = pauses(&watches);
    assert!(pauses[4..].iter().all(|&pause| pause >= Duration::from_millis(50)), "{pauses:?}");
    assert_eq!(word(&handle), "synced", "the server answers");
}

#[tokio::test]
async fn a_list_that_worked_does_not_hurry_a_watch_that_fails() {
    let (fake, handle, _folder) =
        watched("watch-fails", |asked| if asked.is_watch() { Answer::status(500) } else { well(asked) })
            .await;
    let lists = || fake.asked().into_iter().filter(|a| !a.is_watch()).collect::<Vec<_>>();
    until("a few more", || lists().len() >= 10).await;
    let pauses = pauses(&lists());
    assert!(pauses[5..].iter().all(|&pause| pause >= Duration::from_millis(100)), "{pauses:?}");
    until("told", || word(&handle) == "stale").await;
    assert_eq!(live(&handle).len(), 2);
}

#[tokio::test]
async fn the_servers_wish_for_a_pause_is_kept() {
    let (fake, _handle, _folder) = watched("pause", |asked| match asked.number {
        0 => Answer { headers: "Retry-After: 1\r\n".into(), ..Answer::status(429) },
        _ => well(asked),
    })
    .await;
    until("asked again", || fake.asked().len() > 1).await;
    let asked = fake.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn expired_state_makes_the_next_list_one_of_now() {
    let (fake, handle, _folder) = watched("expired", |asked| match asked.number {
        1 => Answer::ok(vec![line("ERROR", &json!({"code": 410, "message": "expired"}))]),
        _ => well(asked),
    })
    .await;
    until("made anew", || fake.asked().len() >= 4 && word(&handle) == "synced").await;
    let versions: Vec<_> = fake.asked().iter().take(4).map(|a| a.parameter("resourceVersion")).collect();
    assert_eq!(versions, [Some("0".into()), Some("10".into()), None, Some("10".into())]);
}

#[tokio::test]
async fn pages_that_are_too_large_are_asked_for_in_parts() {
    let huge = "x".repeat(40 << 20);
    let (fake, handle, _folder) = watched("huge", move |asked| {
        let limit: u32 = asked.parameter("limit").map_or(0, |limit| limit.parse().unwrap());
        match limit {
            _ if asked.is_watch() => quiet(),
            500.. => Answer::json(format!(r#"{{"kind":"PodList","ignored":"{huge}"}}"#)),
            _ => Answer::json(list([1], "")),
        }
    })
    .await;
    until("synced", || word(&handle) == "synced").await;
    let asked = fake.asked();
    assert_eq!(
        (asked[1].parameter("limit").as_deref(), asked[1].parameter("resourceVersion")),
        (Some("250"), None)
    );
    assert!(handle.status().last_error.unwrap().contains("larger than 32 MiB"));
}

#[tokio::test]
async fn other_nodes_pods_are_left_out_even_if_the_server_forgets_the_filter() {
    let (_fake, handle, _folder) = watched("unfiltered", |asked| {
        let mut other = pod(9);
        other["spec"]["nodeName"] = json!("n2");
        if asked.is_watch() {
            return Answer::ok(vec![line("ADDED", &other), line("ADDED", &pod(2)), Part::Hang]);
        }
        Answer::json(
            json!({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [other, pod(1)]}),
        )
    })
    .await;
    until("both", || live(&handle) == ["cart-1", "cart-2"]).await;
}

#[tokio::test]
async fn a_new_token_is_taken_up_and_the_certificate_is_looked_at() {
    let folder = Folder::new("token");
    std::fs::write(folder.0.join("token"), "old\n").unwrap();
    let revoked = Arc::new(AtomicBool::new(false));
    let old_is_revoked = revoked.clone();
    let fake = Fake::start_tls(&folder.0, move |asked| match asked.token.as_str() {
        "old" if old_is_revoked.load(Ordering::Relaxed) => Answer::status(401),
        "old" if asked.is_watch() => Answer::ok(vec![Part::Wait(Duration::from_millis(50)), Part::Break]),
        _ => well(asked),
    })
    .await;
    let target =
        Target::InCluster { url: format!("https://127.0.0.1:{}", fake.port), account: folder.0.clone() };
    let plan = Plan { target, node: NODE.into() };
    let handle = ApiHandle::watch(plan.clone(), timing());
    until("synced", || live(&handle).len() == 2).await;
    revoked.store(true, Ordering::Relaxed);
    until("refused", || handle.status().last_error.is_some_and(|error| error.contains("401"))).await;
    assert_eq!(live(&handle).len(), 2);
    std::fs::write(folder.0.join("token"), "new").unwrap();
    until("taken up", || word(&handle) == "synced").await;
    // Another server's certificate.
    let folder = Folder::new("stranger");
    std::fs::write(folder.0.join("token"), "secret").unwrap();
    let _ = Fake::start_tls(&folder.0, well).await;
    let target =
        Target::InCluster { url: format!("https://127.0.0.1:{}", fake.port), account: folder.0.clone() };
    let wary = ApiHandle::watch(Plan { target, ..plan }, timing());
    until("refused", || wary.status().last_error.is_some_and(|error| error.contains("certificate"))).await;
    println!("{}", wary.status().last_error.unwrap());
    assert!(fake.asked().iter().all(|asked| asked.token != "secret"), "nothing was sent to a stranger");
}

#[test]
fn asking_once_takes_no_longer_than_it_may() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = Folder::new("once");
    let once = |script: fn(&Asked) -> Answer| {
        let fake = runtime.block_on(Fake::start(script));
        let plan = fake.plan(&folder.0);
        let began = Instant::now();
        let handle = ApiHandle::once(plan, Duration::from_millis(800));
        assert!(began.elapsed() < Duration::from_secs(2));
        handle
    };
    let handle = once(well);
    assert_eq!((word(&handle), live(&handle).len()), ("synced", 2));
    let handle = once(|_| Answer::ok(vec![Part::Hang]));
    assert!(handle.status().last_error.unwrap().contains("longer than 0 s"));
    // Who may list but not watch is told so.
    let handle = once(|asked| if asked.is_watch() { Answer::status(403) } else { well(asked) });
    assert_eq!((word(&handle), live(&handle).len()), ("forbidden", 2));
}
