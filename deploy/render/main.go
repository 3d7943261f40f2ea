// Renders the chart as `helm template` would, where helm is not to be had: the same template language (Go's
// text/template with sprig's functions) and the few things that Helm adds and this chart uses. Built with Debian's golang-1.19-go,
// golang-github-masterminds-sprig-dev and golang-k8s-sigs-yaml-dev.
//
//	render [-release NAME] [-namespace NAME] [-service NAME] [-kube-version V] [-values FILE]... [-set PATH=VALUE]... [-notes] CHART
//
// Prints every manifest that is not empty, each behind `# Source: templates/NAME`, by name, or the notes with -notes. With a
// -service other than Helm the chart leaves out what only a Helm release has.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type values = map[string]interface{}

// What a template knows as .Files.
type files struct{ root string }

// Get is the content of one file, empty if it is not there, as Helm has it.
func (f files) Get(name string) string {
	content, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		return ""
	}
	return string(content)
}

// Glob is the files of that pattern, by path.
func (f files) Glob(pattern string) (map[string]string, error) {
	found, err := filepath.Glob(filepath.Join(f.root, pattern))
	out := map[string]string{}
	for _, file := range found {
		name, _ := filepath.Rel(f.root, file)
		out[name] = f.Get(name)
	}
	return out, err
}

type many []string

func (m *many) String() string     { return strings.Join(*m, ",") }
func (m *many) Set(s string) error { *m = append(*m, s); return nil }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	set := flag.NewFlagSet("render", flag.ContinueOnError)
	release := set.String("release", "conntrack-pressure", "name of the release")
	namespace := set.String("namespace", "conntrack-pressure", "namespace of the release")
	service := set.String("service", "Helm", "who renders")
	kube := set.String("kube-version", "1.30.0", "version of Kubernetes to render for")
	notes := set.Bool("notes", false, "the notes instead of the manifests")
	var valueFiles, sets many
	set.Var(&valueFiles, "values", "a file of values over the chart's own")
	set.Var(&sets, "set", "PATH=VALUE over those")
	if err := set.Parse(args); err != nil {
		return err
	}
	if set.NArg() != 1 {
		return fmt.Errorf("which chart? one folder is wanted, not %d", set.NArg())
	}
	root := set.Arg(0)
	all, err := valuesOf(root, valueFiles, sets)
	if err != nil {
		return err
	}
	chart, err := chartOf(root)
	if err != nil {
		return err
	}
	data := values{
		"Values":       all,
		"Chart":        chart,
		"Files":        files{root},
		"Release":      values{"Name": *release, "Namespace": *namespace, "Service": *service},
		"Capabilities": values{"KubeVersion": values{"Version": "v" + *kube}},
	}
	return render(root, data, *notes)
}

// Chart.yaml, its keys as templates write them: .Chart.AppVersion.
func chartOf(root string) (values, error) {
	read, err := readYAML(filepath.Join(root, "Chart.yaml"))
	chart := values{}
	for key, value := range read {
		chart[strings.ToUpper(key[:1])+key[1:]] = value
	}
	return chart, err
}

func valuesOf(root string, more, sets []string) (values, error) {
	all, err := readYAML(filepath.Join(root, "values.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range more {
		over, err := readYAML(file)
		if err != nil {
			return nil, err
		}
		merge(all, over)
	}
	for _, assignment := range sets {
		name, text, found := strings.Cut(assignment, "=")
		if !found {
			return nil, fmt.Errorf("-set %s: not PATH=VALUE", assignment)
		}
		var value interface{}
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("-set %s: %w", assignment, err)
		}
		parts := strings.Split(name, ".")
		for i := len(parts) - 1; i >= 0; i-- {
			value = values{parts[i]: value}
		}
		merge(all, value.(values))
	}
	return all, nil
}

// Maps key by key, all else as a whole.
func merge(into, over values) {
	for key, value := range over {
		below, isMap := value.(values)
		if old, ok := into[key].(values); ok && isMap {
			merge(old, below)
		} else {
			into[key] = value
		}
	}
}

func readYAML(file string) (values, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := values{}
	if err := yaml.UnmarshalStrict(content, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}

func render(root string, data values, notes bool) error {
	all := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		out, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(out), "\n"), err
	}
	all.Funcs(functions)

	found, err := filepath.Glob(filepath.Join(root, "templates", "*"))
	if err != nil {
		return err
	}
	var names []string
	for _, file := range found {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name := path.Join("templates", filepath.Base(file))
		if _, err := all.New(name).Parse(string(content)); err != nil {
			return err
		}
		if !strings.HasPrefix(filepath.Base(file), "_") && notes == strings.HasSuffix(file, ".txt") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, name, data); err != nil {
			return err
		}
		text := strings.TrimSpace(out.String())
		if text == "" {
			continue
		}
		if notes {
			fmt.Println(text)
			continue
		}
		fmt.Printf("---\n# Source: %s\n%s\n", name, strings.TrimPrefix(text, "---\n"))
	}
	return nil
}
