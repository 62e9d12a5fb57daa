{{- define "trail.predictor" -}}
{{- $predictor := .Values.predictor -}}
name: predictor
image: {{ include "trail.image" . }}{{ if $predictor.gpu }}-cuda{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - predictor
  - --host=0.0.0.0
  - --port=50061
  - --metrics-host=0.0.0.0
  - --metrics-port=9461
  {{- include "trail.protection" . | trim | nindent 2 }}
  {{- if $predictor.models.existingClaim }}
  - --model-dir=/models
  {{- end }}
  {{- with $predictor.models.default }}
  - --default-model={{ . }}
  {{- end }}
  {{- with include "trail.flags" (list "predictor" $predictor.settings) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
env:
  {{- include "trail.storeEnv" (list . "PREDICTOR") | trim | nindent 2 }}
  {{- with include "trail.dialEnv" (list . "CLIENT") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $predictor.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: grpc, containerPort: 50061}
  - {name: metrics, containerPort: 9461}
{{ include "trail.probes" (list . 50061) }}
resources:
  {{- $resources := deepCopy $predictor.resources }}
  {{- if $predictor.gpu }}
  {{- $resources = mergeOverwrite $resources (dict "limits" (dict "nvidia.com/gpu" 1)) }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
{{ include "trail.containerSecurity" . }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if $predictor.models.existingClaim }}
  - {name: models, mountPath: /models, readOnly: true}
  {{- end }}
  {{- if .Values.store.caSecret }}
  - {name: store-ca, mountPath: /etc/trail/store-ca, readOnly: true}
  {{- end }}
  {{- if .Values.security.tlsSecret }}
  - {name: tls, mountPath: /etc/trail/tls, readOnly: true}
  - {name: access, mountPath: /etc/trail/access, readOnly: true}
  {{- end }}
{{- end }}

{{- define "trail.scheduler" -}}
{{- $scheduler := .Values.scheduler -}}
name: scheduler
image: {{ include "trail.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - scheduler
  - --host=0.0.0.0
  - --port=50062
  - --metrics-host=0.0.0.0
  - --metrics-port=9462
  {{- include "trail.protection" . | trim | nindent 2 }}
  {{- with include "trail.flags" (list "scheduler" $scheduler.settings) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
env:
  {{- include "trail.storeEnv" (list . "SCHEDULER") | trim | nindent 2 }}
  {{- with include "trail.dialEnv" (list . "CLIENT") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $scheduler.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: grpc, containerPort: 50062}
  - {name: metrics, containerPort: 9462}
{{ include "trail.probes" (list . 50062) }}
resources:
  {{- toYaml $scheduler.resources | nindent 2 }}
{{ include "trail.containerSecurity" . }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.store.caSecret }}
  - {name: store-ca, mountPath: /etc/trail/store-ca, readOnly: true}
  {{- end }}
  {{- if .Values.security.tlsSecret }}
  - {name: tls, mountPath: /etc/trail/tls, readOnly: true}
  - {name: access, mountPath: /etc/trail/access, readOnly: true}
  {{- end }}
{{- end }}

{{- define "trail.valkey" -}}
{{- $valkey := .Values.valkey -}}
name: valkey
image: {{ $valkey.image }}
args:
  - valkey-server
  - --dir
  - /data
  - --save
  - {{ ternary "300 1" "" $valkey.persistence.enabled | quote }}
  - --maxmemory
  - {{ $valkey.maxMemory }}
  - --maxmemory-policy
  - noeviction
  {{- if $valkey.existingSecret }}
  - --requirepass
  - $(STORE_PASSWORD)
  {{- end }}
{{- if $valkey.existingSecret }}
env:
  - name: STORE_PASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ $valkey.existingSecret }}
        key: password
{{- end }}
ports:
  - {name: store, containerPort: 6379}
startupProbe:
  tcpSocket: {port: 6379}
  periodSeconds: 1
  failureThreshold: 60
{{- if eq .Values.mode "shared" }}
readinessProbe:
  tcpSocket: {port: 6379}
  periodSeconds: 5
{{- end }}
livenessProbe:
  tcpSocket: {port: 6379}
  periodSeconds: 10
resources:
  {{- toYaml $valkey.resources | nindent 2 }}
{{ include "trail.containerSecurity" . }}
volumeMounts:
  - {name: store, mountPath: /data}
{{- end }}

{{- /* Volumes of both services. */}}
{{- define "trail.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.store.caSecret }}
- name: store-ca
  secret:
    secretName: {{ .Values.store.caSecret }}
{{- end }}
{{- if .Values.security.tlsSecret }}
- name: tls
  secret:
    secretName: {{ .Values.security.tlsSecret }}
- name: access
  secret:
    secretName: {{ .Values.security.accessSecret }}
{{- end }}
{{- end }}

{{- /* The certificates alone that clients check the services' by, without the key. */}}
{{- define "trail.roots" -}}
{{- with .Values.security.tlsSecret }}
- name: roots
  secret:
    secretName: {{ . }}
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end }}

{{- define "trail.modelsVolume" -}}
{{- with .Values.predictor.models.existingClaim }}
- name: models
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end }}

{{- define "trail.storeVolume" -}}
- name: store
  {{- if and .Values.valkey.persistence.enabled (eq .Values.mode "shared") }}
  persistentVolumeClaim:
    claimName: {{ include "trail.name" . }}-valkey
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{- define "trail.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "trail.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "trail.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
