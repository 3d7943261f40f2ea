# Builds kube-apiserver from Debian's source package, whose vendor folder needs no network.
# build.sh FOLDER: it holds the .orig.tar.gz and the unpacked Go in go/; the program goes to FOLDER/kube-apiserver.
set -eu
folder=$1
export GOROOT="$folder/go/usr/lib/go-1.19" GOPATH="$folder/gopath" GOCACHE="$folder/gocache" HOME="$folder"
export GO111MODULE=off CGO_ENABLED=0 GOFLAGS= PATH="$GOROOT/bin:$PATH"
tree="$GOPATH/src/k8s.io/kubernetes"
mkdir -p "$tree"
tar -xzf "$folder"/kubernetes_*.orig.tar.gz -C "$tree" --strip-components=1
cd "$tree"
go build -o "$folder/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
# What upstream's Makefile does: every package that asks for it, staging under the names it is imported by.
packages=$(grep -rlE --include='*.go' '^// \+k8s:openapi-gen=' pkg staging/src/k8s.io | xargs -n1 dirname \
    | sed 's#^staging/src/##; s#^pkg/#k8s.io/kubernetes/pkg/#' | grep -vE '^k8s.io/(code-generator|sample-)' | LC_ALL=C sort -u | paste -sd, -)
"$folder/openapi-gen" -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
    -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -r "$folder/violations"
go build -trimpath -ldflags "-s -w" -o "$folder/kube-apiserver" ./cmd/kube-apiserver
