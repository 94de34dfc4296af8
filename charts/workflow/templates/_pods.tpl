{{/*
What all pods have in common: no rights, and the installation's registry and nodes.
Takes the root.
*/}}
{{- define "batch-imaging.pod" -}}
automountServiceAccountToken: false
# Variables that describe services would be taken for settings by Dask.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The image and the restrictions of a container. Takes the root.
*/}}
{{- define "batch-imaging.container" -}}
{{- $own := printf "batch-imaging:%s" .Chart.AppVersion -}}
image: {{ .Values.wf_image | default .Values.image | default $own | quote }}
imagePullPolicy: {{ .Values.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/*
A number or text as text, whole numbers without exponent.
*/}}
{{- define "batch-imaging.text" -}}
{{ kindIs "string" . | ternary . (toJson .) }}
{{- end -}}

{{/*
Environment variables of a container. Takes a dictionary of them.
*/}}
{{- define "batch-imaging.env" -}}
{{- $variables := list -}}
{{- range $name, $value := . -}}
{{- $text := include "batch-imaging.text" $value -}}
{{- $variables = append $variables (dict "name" $name "value" $text) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}
