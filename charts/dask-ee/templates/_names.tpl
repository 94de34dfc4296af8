{{/*
A name that Kubernetes takes, made of any text: the text itself where it is such a name and fits,
else what is left of it and a mark of the whole, so that different texts keep different names.
Takes a dictionary of text and limit.
*/}}
{{- define "batch-imaging.name" -}}
{{- $text := .text | toString -}}
{{- $name := regexReplaceAll "[^a-z0-9-]+" (lower $text) "-" | trimAll "-" -}}
{{- if or (ne $name $text) (gt (len $name) .limit) -}}
{{- $start := trunc (sub .limit 9 | int) $name -}}
{{- $name = printf "%s-%s" (regexReplaceAll "-+$" $start "") (sha256sum $text | trunc 8) -}}
{{- end -}}
{{- trimPrefix "-" $name -}}
{{- end -}}

{{/*
The labels that tell one component's pods from all others.
Takes a dictionary of root and component.
*/}}
{{- define "batch-imaging.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/*
The labels of an object. Takes a dictionary of root and component.
*/}}
{{- define "batch-imaging.labels" -}}
{{ include "batch-imaging.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: batch-imaging
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.pb_id }}
batch-imaging/pb-id: {{ include "batch-imaging.name" (dict "text" . "limit" 63) | quote }}
{{- end }}
{{- with .root.Values.sbi_id }}
batch-imaging/sbi-id: {{ include "batch-imaging.name" (dict "text" . "limit" 63) | quote }}
{{- end }}
{{- end -}}
