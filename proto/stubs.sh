#!/usr/bin/env bash
# Generates the contract for other languages: proto/stubs.sh OUT [LANGUAGE...]
# Without a language, for all whose generators are installed; the others are named, with how to get them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?give a folder, as: proto/stubs.sh out/stubs go}
shift
# Import path of the generated Go package.
go_package=${GO_PACKAGE:-trail/v1}
loader=$here/../engine_adapter/examples/typescript/node_modules/.bin/proto-loader-gen-types
protos=("$here"/trail/v1/*.proto)
failed=0

compile() { # LANGUAGE PROTOC_FLAGS...
    local folder=$out/$1
    shift
    mkdir -p "$folder"
    protoc -I "$here" "${@//OUT/$folder}" "${protos[@]}"
}

go_stubs() {
    local flags=() proto
    for proto in "${protos[@]}"; do
        flags+=("--go_opt=M${proto#"$here"/}=$go_package" "--go-grpc_opt=M${proto#"$here"/}=$go_package")
    done
    compile go --go_out=OUT --go_opt=paths=source_relative --go-grpc_out=OUT --go-grpc_opt=paths=source_relative "${flags[@]}"
}

java_stubs() {
    compile java --java_out=OUT --grpc_out=OUT --plugin=protoc-gen-grpc="$(command -v grpc_java_plugin)"
}

cpp_stubs() {
    compile cpp --cpp_out=OUT --grpc_out=OUT --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)"
}

rust_stubs() {
    compile rust --prost_out=OUT --tonic_out=OUT
}

typescript_stubs() {
    mkdir -p "$out/typescript"
    "$loader" --longs=String --enums=String --defaults --oneofs --grpcLib=@grpc/grpc-js --includeDirs="$here" \
        --outDir="$out/typescript" "${protos[@]#"$here"/}"
}

generate() { # LANGUAGE HOW_TO_GET_THEM PROGRAM...
    local language=$1 how=$2 program
    shift 2
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            echo "$language: not generated: ${program##*/} is missing: $how" >&2
            failed=1
            return
        fi
    done
    "${language}_stubs"
    echo "$language: $out/$language"
}

wanted=("$@")
[ $# -gt 0 ] || wanted=(go java cpp rust typescript)
for language in "${wanted[@]}"; do
    case $language in
        go) generate go "apt-get install protobuf-compiler protoc-gen-go protoc-gen-go-grpc" protoc protoc-gen-go protoc-gen-go-grpc ;;
        java) generate java "apt-get install protobuf-compiler protobuf-compiler-grpc-java-plugin" protoc grpc_java_plugin ;;
        cpp) generate cpp "apt-get install protobuf-compiler protobuf-compiler-grpc" protoc grpc_cpp_plugin ;;
        rust) generate rust "cargo install protoc-gen-prost protoc-gen-tonic" protoc protoc-gen-prost protoc-gen-tonic ;;
        typescript) generate typescript "(cd engine_adapter/examples/typescript && npm ci)" "$loader" ;;
        *) echo "$language: unknown; there are go java cpp rust typescript" >&2; exit 2 ;;
    esac
done
# Asked for by name, a language that was not generated is a failure.
[ $# -eq 0 ] || exit "$failed"
