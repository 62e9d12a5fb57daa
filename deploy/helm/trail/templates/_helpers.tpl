{{- define "trail.name" -}}
{{- if contains "trail" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-trail" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* Labels of a component: (list $ "predictor"). */}}
{{- define "trail.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: trail
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "trail.labels" -}}
{{- $root := index . 0 -}}
{{ include "trail.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "trail.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Whoever runs: no root, no privilege, a root file system that cannot be written. */}}
{{- define "trail.podSecurity" -}}
serviceAccountName: {{ include "trail.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "trail.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* Settings as flags, so that the service refuses one that it does not know: (list "predictor" settings). */}}
{{- define "trail.flags" -}}
{{- $component := index . 0 }}
{{- $ours := list "host" "port" "metrics_port" "redis_url" "model_dir" "default_model" "config" "exit_with_parent" "tls_cert_file" "tls_key_file" "access_file" "unprotected" "metrics_host" }}
{{- range $name, $value := index . 1 }}
{{- if has $name $ours }}
{{- fail (printf "%s.settings.%s: the chart sets it by other values" $component $name) }}
{{- end }}
{{- $flag := $name | replace "_" "-" }}
{{- if kindIs "bool" $value }}
- {{ ternary "--" "--no-" $value }}{{ $flag }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" $flag $value | quote }}
{{- else }}
- {{ printf "--%s=%s" $flag (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where the store is: (list $ "PREDICTOR"). */}}
{{- define "trail.storeEnv" -}}
{{- $root := index . 0 -}}
{{- $name := printf "TRAIL_%s_REDIS_URL" (index . 1) -}}
{{- $host := ternary "127.0.0.1" (printf "%s-valkey" (include "trail.name" $root)) (eq $root.Values.mode "sidecar") -}}
{{- if not $root.Values.valkey.enabled }}
{{- if $root.Values.store.existingSecret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.store.existingSecret }}
      key: {{ $root.Values.store.secretKey }}
{{- else }}
- name: {{ $name }}
  value: {{ required "store.url: valkey.enabled is false: give store.url or store.existingSecret" $root.Values.store.url | quote }}
{{- end }}
{{- else if $root.Values.valkey.existingSecret }}
- name: STORE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.valkey.existingSecret }}
      key: password
- name: {{ $name }}
  value: redis://:$(STORE_PASSWORD)@{{ $host }}:6379/0
{{- else }}
- name: {{ $name }}
  value: redis://{{ $host }}:6379/0
{{- end }}
{{- end }}

{{- /* Without its store a service is not ready, but a restart would not bring the store back: so the kubelet only
     asks whether anybody listens before it restarts one. Beside an engine there is no readiness: the engine goes on
     serving without them, and an unready container would take its pod out of service. (list $ port) */}}
{{- define "trail.probes" -}}
{{- $port := index . 1 -}}
{{- $tls := (index . 0).Values.security.tlsSecret -}}
startupProbe:
  {{- if $tls }}
  exec: {command: [trail, health, "127.0.0.1:{{ $port }}"]} # the kubelet's own gRPC probe speaks no TLS
  timeoutSeconds: 10
  {{- else }}
  grpc: {port: {{ $port }}}
  {{- end }}
  periodSeconds: 2
  failureThreshold: 60
{{- if eq (index . 0).Values.mode "shared" }}
readinessProbe:
  {{- if $tls }}
  exec: {command: [trail, health, "127.0.0.1:{{ $port }}"]}
  periodSeconds: 10
  timeoutSeconds: 10
  {{- else }}
  grpc: {port: {{ $port }}}
  periodSeconds: 5
  timeoutSeconds: 3
  {{- end }}
  failureThreshold: 2
{{- end }}
livenessProbe:
  tcpSocket: {port: {{ $port }}}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}

{{- /* How a service is kept from strangers: by itself, or by the network around it. */}}
{{- define "trail.protection" -}}
{{- $security := .Values.security -}}
{{- if ne (not $security.tlsSecret) (not $security.accessSecret) }}
{{- fail "security: tlsSecret and accessSecret belong together: give both or none" }}
{{- end }}
{{- if $security.tlsSecret -}}
- --tls-cert-file=/etc/trail/tls/tls.crt
- --tls-key-file=/etc/trail/tls/tls.key
- --access-file=/etc/trail/access/access.toml
{{- else -}}
{{- if and (not .Values.networkPolicy.enabled) (not $security.unprotected) }}
{{- fail "networkPolicy.enabled: without it anybody in the cluster reaches the services: give security.tlsSecret and security.accessSecret, or set security.unprotected where something else keeps strangers out" }}
{{- end -}}
- --unprotected # the network policies keep strangers out
{{- end }}
{{- end }}

{{- /* How a client dials the services, whose certificate it finds in /etc/trail/tls: (list $ "AGENT"). */}}
{{- define "trail.dialEnv" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.security }}
{{- if .tlsSecret }}
- name: TRAIL_{{ index $ 1 }}_TLS_CA_FILE
  value: /etc/trail/tls/ca.crt
- name: TRAIL_{{ index $ 1 }}_TLS_SERVER_NAME
  value: {{ .serverName | default (include "trail.name" $root) | quote }}
{{- end }}
{{- end }}
{{- end }}
