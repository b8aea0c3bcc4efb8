// Checks the objects of standard input against the schemas of their CRDs; a line for each that fails.
// An unknown field passes: these schemas do not forbid any.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";

const kinds = new Map(
  [ScaledObject, PodMonitor, PrometheusRule].map((kind) => [`${kind.apiVersion} ${kind.kind}`, kind]),
);

for (const item of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${item.apiVersion} ${item.kind}`;
  const Kind = kinds.get(name);
  try {
    if (Kind === undefined) throw new Error("no schema is known");
    new Kind(item).validate();
  } catch (error) {
    console.log(`${name} ${item.metadata.name}: ${error.message}`);
  }
}
