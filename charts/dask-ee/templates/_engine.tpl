{{/*
What the names of all objects begin with.
*/}}
{{- define "dask-ee.fullname" -}}
{{- if contains "dask" .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- include "batch-imaging.name" (dict "text" (printf "%s-dask" .Release.Name) "limit" 53) -}}
{{- end -}}
{{- end -}}

{{/*
Where the scheduler is reached.
*/}}
{{- define "dask-ee.address" -}}
tcp://{{ include "dask-ee.fullname" . }}-scheduler:{{ .Values.scheduler.servicePort | int }}
{{- end -}}

{{/*
The claim of a buffer, which is the name of the buffer's release. Takes the buffer's name.
*/}}
{{- define "dask-ee.claim" -}}
{{- include "batch-imaging.name" (dict "text" . "limit" 53) -}}
{{- end -}}

{{/*
The annotations by which Prometheus finds a pod. Takes the port.
*/}}
{{- define "dask-ee.metrics" -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ . | quote }}
{{- end -}}

{{/*
How a pod's health is asked for: often until it has started; it is ended when it has not answered
for two minutes, since native code may keep a worker from answering for a while.
*/}}
{{- define "dask-ee.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 3
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}
