"""From a registered model version to live traffic: gated, observed, reversible.

The MLflow registry is the one truth: aliases `champion` and `challenger`, and tags.

state               what the registry says about a model: versions, gates, rollout, who serves it
lock                one change of a model at a time, whoever makes it
changes             promote, roll back, roll out, advance, abort, adopt
waiting             until every live sync process serves a version
artifacts           the files of a version and their digest
gates               all that is found out about a version before it may serve, and its record
  verdict           what one gate says
  accuracy          scores on an evaluation set, against those of the champion
  load              time and memory in a real Triton
  onnx_contents     what an ONNX file is made of
  report            the gates as a page
process             sync, one process beside each Triton
  settings          what it reads from the environment
  loop              round after round, for every model that is followed
  adoption          what was served before becomes the first champion
  sync              one round: fetch, check, export, load, prove, switch, retire
  store             versions that were downloaded
  synced            the repository that Triton serves
  servers           where versions are tried and served
  rollouts          the next phase, the new champion, or an abort
  trial             what the gateways say of a challenger
  webhook           whether a webhook is MLflow's, new, and not seen before
  listener          the port: webhooks, metrics, state
  metrics           what it measures
"""
