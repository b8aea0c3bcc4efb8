"""`nuclei monitor`: Prometheus beside the running service, and the page /monitor.

targets        what is scraped: the parts of the running service, or those that are named
programs       Prometheus, Alertmanager and the probe: found, configured, started, watched
process        all of them and the page, until Ctrl-C
prometheus     what the page asks Prometheus
units          values as people read them
charts         answers as SVG and HTML
page           the dashboards of `monitoring.boards`, filled with answers
documents      docs/, the runbooks among it, as HTML
server         the addresses of the page
"""
