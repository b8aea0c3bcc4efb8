"""What readers choose at the top of the dashboards, and the selectors that follow it."""

from monitoring.panels import Variable

MODEL = Variable("model", "Model", "label_values(nuclei_request_seconds_count, model)")
VERSION = Variable(
    "version", "Version", 'label_values(nuclei_request_seconds_count{model=~"$model"}, version)'
)
# The probe's frames are no caller's: a reader sees them by choosing them.
PROTOCOL = Variable(
    "protocol",
    "Protocol",
    "label_values(nuclei_request_seconds_count, protocol)",
    every="grpc|stream|http",
)
INSTANCE = Variable("instance", "Gateway", 'label_values(up{job="gateway"}, instance)')

# Of metrics with the labels of a request.
REQUESTS = 'model=~"$model",version=~"$version",protocol=~"$protocol",instance=~"$instance"'
ANSWERED = f'{REQUESTS},code="OK"'
# Of metrics with fewer labels.
VERSIONS = 'model=~"$model",version=~"$version",instance=~"$instance"'
PROTOCOLS = 'protocol=~"$protocol",instance=~"$instance"'
GATEWAYS = 'job="gateway",instance=~"$instance"'
