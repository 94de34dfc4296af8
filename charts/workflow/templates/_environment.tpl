{{/*
The environment of the script and of its test; what is given in the values wins.
*/}}
{{- define "workflow.environment" -}}
{{- $own := dict
  "BATCH_IMAGING_WORKER_MEMORY" .Values.workerMemory
  "SDP_HELM_NAMESPACE" .Release.Namespace
-}}
env:
  {{- include "batch-imaging.env" (merge (dict) .Values.env $own) | nindent 2 }}
{{- with .Values.credentialsSecret }}
envFrom:
  - secretRef:
      name: {{ . | quote }}
{{- end }}
{{- end -}}
