{{/*
The name of a component's objects. Takes a dictionary of root and component.
*/}}
{{- define "batch-imaging.fullname" -}}
{{- if regexMatch "^[0-9]" .root.Release.Name -}}
{{- fail (printf "release %s: a Service cannot have a name that begins with a digit; give the release one that begins with a letter" .root.Release.Name) -}}
{{- end -}}
{{- $text := printf "%s-%s" .root.Release.Name .component -}}
{{- include "batch-imaging.name" (dict "text" $text "limit" 63) -}}
{{- end -}}

{{/*
The name of what operators know by names of Tango's own. Takes a dictionary of root and component.
*/}}
{{- define "batch-imaging.tangoName" -}}
{{- $text := printf "%s-tango-base-%s" .component .root.Release.Name -}}
{{- include "batch-imaging.name" (dict "text" $text "limit" 63) -}}
{{- end -}}

{{/*
The image of all containers. Takes the root.
*/}}
{{- define "batch-imaging.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/*
The specification of a Deployment up to that of its pods. Takes a dictionary of root and component.
*/}}
{{- define "batch-imaging.deployment" -}}
replicas: 1
strategy:
  type: Recreate
selector:
  matchLabels: {{- include "batch-imaging.selector" . | nindent 4 }}
template:
  metadata:
    labels: {{- include "batch-imaging.labels" . | nindent 6 }}
    annotations:
      batch-imaging/connection: {{ include "batch-imaging.connection" .root | sha256sum | trunc 16 | quote }}
{{- end -}}

{{/*
What all pods have in common. Takes the root.
*/}}
{{- define "batch-imaging.pod" -}}
enableServiceLinks: false
shareProcessNamespace: true  # no program is process 1, which SIGTERM ends only if it is handled
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- range $name := list "imagePullSecrets" "nodeSelector" "tolerations" }}
{{- with index $.Values $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What all containers have in common. Takes the root.
*/}}
{{- define "batch-imaging.container" -}}
image: {{ include "batch-imaging.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/*
The environment that leads to both databases. Takes the root.
*/}}
{{- define "batch-imaging.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "batch-imaging.fullname" (dict "root" . "component" "connection") }}
  {{- with .Values.etcd.external.credentialsSecret }}
  - secretRef:
      name: {{ . | quote }}
  {{- end }}
{{- end -}}

{{/*
The volumes of a database with data under /data. Takes a dictionary of root, component, persistence.
*/}}
{{- define "batch-imaging.volumes" -}}
- name: tmp
  emptyDir: {}
- name: data
  {{- if .persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "batch-imaging.fullname" . }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end -}}

{{/*
The specification of a claim. Takes what the values call persistence.
*/}}
{{- define "batch-imaging.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end -}}

{{/*
Where both databases are, as environment variables. Takes the root.
*/}}
{{- define "batch-imaging.connection" -}}
TANGO_HOST: {{ include "batch-imaging.tangoName" (dict "root" . "component" "databaseds") }}:10000
{{- with .Values.etcd.external }}
{{- if .host }}
SDP_CONFIG_HOST: {{ .host | quote }}
SDP_CONFIG_PORT: {{ .port | quote }}
SDP_CONFIG_PROTOCOL: {{ .protocol | quote }}
{{- else }}
SDP_CONFIG_HOST: {{ include "batch-imaging.fullname" (dict "root" $ "component" "etcd") }}.{{ $.Release.Namespace }}
SDP_CONFIG_PORT: "2379"
SDP_CONFIG_PROTOCOL: http
{{- end }}
{{- end }}
{{- with .Values.etcd.prefix }}
SDP_CONFIG_PREFIX: {{ . | quote }}
{{- end }}
SDP_HELM_NAMESPACE: {{ .Values.processing.namespace | quote }}
ORBunixTransportDirectory: /tmp/omniorb
{{- end -}}
