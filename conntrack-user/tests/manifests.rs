//! The manifests in deploy/ match the real command line.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use conntrack_user::cli::Cli;
use conntrack_user::config::{Action, Config};
use conntrack_user::export::record::LogFormat;

fn manifest(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The items of the list below the only line `key:`.
fn list<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let mut lines = yaml.lines().skip_while(|l| l.trim() != key).skip(1);
    let items: Vec<&str> = lines.by_ref().map_while(|l| l.trim().strip_prefix("- ")).collect();
    assert!(!items.is_empty(), "no list {key}");
    items.into_iter().map(|i| i.trim_matches('"')).collect()
}

#[test]
fn the_daemonset_runs_with_flags_that_exist() {
    let yaml = manifest("daemonset.yaml");
    let args = [vec!["conntrack-pressure"], list(&yaml, "args:")].concat();
    let config = Config::new(Cli::try_parse_from(&args).unwrap()).unwrap();
    let Action::Run(run) = config.action else { panic!("{args:?} does not run") };
    assert_eq!(run.log_format, LogFormat::Json);
    let port = run.listen_address.rsplit(':').next().unwrap();
    let ports = yaml
        .lines()
        .map(str::trim)
        .filter_map(|l| l.strip_prefix("port: ").or_else(|| l.strip_prefix("containerPort: ")));
    let ports: Vec<&str> = ports.collect();
    assert_eq!(ports, [port; 3], "the container's port and both probes'");
}

#[test]
fn the_directories_it_reads_are_mounted() {
    let yaml = manifest("daemonset.yaml");
    let config = Config::new(Cli::try_parse_from(["conntrack-pressure", "run"]).unwrap()).unwrap();
    for path in [&config.system.sysfs, &config.system.podlogs] {
        assert!(yaml.contains(&format!("mountPath: {}\n", path.display())), "{}", path.display());
    }
    for needed in ["hostPID: true", "hostNetwork: true", "privileged: true", "readOnlyRootFilesystem: true"] {
        assert!(yaml.contains(needed), "{needed}");
    }
}

#[test]
fn the_kustomization_names_every_manifest() {
    let kustomization = manifest("kustomization.yaml");
    let mut named = list(&kustomization, "resources:");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> =
        files.filter(|f| f.ends_with(".yaml") && f != "kustomization.yaml").collect();
    named.sort_unstable();
    files.sort();
    assert_eq!(named, files);
}

#[test]
fn the_image_starts_the_real_binary_with_a_command_that_parses() {
    let dockerfile = manifest("Dockerfile");
    assert!(
        dockerfile.contains("ENTRYPOINT [\"/conntrack-pressure\"]") && dockerfile.contains("CMD [\"run\"]")
    );
    assert!(Cli::try_parse_from(["/conntrack-pressure", "run"]).is_ok());
}

#[test]
fn the_daemonset_may_ask_for_pods_and_services_and_nothing_else() {
    let (daemonset, rbac) = (manifest("daemonset.yaml"), manifest("rbac.yaml"));
    assert!(daemonset.contains("automountServiceAccountToken: true\n"));
    let name = Cli::command().get_arguments().find(|a| a.get_id() == "node_name").unwrap().clone();
    let variable = name.get_env().unwrap().to_str().unwrap().to_owned();
    let field = "valueFrom:\n                fieldRef:\n                  fieldPath: spec.nodeName\n";
    assert!(daemonset.contains(&format!("- name: {variable}\n              {field}")), "{variable}");
    let of = |key: &str| {
        let lines = rbac.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
        lines.map(|value| value.trim_start_matches(':').trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("resources"), ["[pods]", "[services]"]);
    assert_eq!(of("verbs"), ["[get, list, watch]", "[list, watch]"]);
}
