// A client of the nuclei service: the result of one frame, or those of a stream of frames.
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { decompress } from "fzstd";

const USAGE = `node client.js segment [options] FILE
node client.js stream [options] FILE...
  --address HOST:PORT  of the gateway's gRPC server
  --token TOKEN        what a gateway with NUCLEI_TOKEN asks for
  --model NAME         instead of the server's default model
  --timeout SECONDS    time for each frame
  --overflow POLICY    block, drop_oldest or latest_only: when frames come too fast for the server`;

const OVERFLOW_POLICIES = {
  block: "OVERFLOW_POLICY_BLOCK",
  drop_oldest: "OVERFLOW_POLICY_DROP_OLDEST",
  latest_only: "OVERFLOW_POLICY_LATEST_ONLY",
};

function connect(address) {
  const proto = protoLoader.loadSync("nuclei/v1/segmentation.proto", {
    includeDirs: [fileURLToPath(new URL("../..", import.meta.url))],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const { Segmentation } = grpc.loadPackageDefinition(proto).nuclei.v1;
  return new Segmentation(address, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1, // a reply may exceed gRPC's 4 MB
    "grpc.keepalive_time_ms": 20_000, // notice a server that vanished
    "grpc.enable_http_proxy": 0, // the address is the gateway's own
  });
}

function metadata({ token }) {
  const sent = new grpc.Metadata();
  if (token) sent.set("authorization", `Bearer ${token}`);
  return sent;
}

// "ModelNotFound: no model ..." for a failed call: the class of the error is in the trailing
// metadata. Without it the failure is one of gRPC itself, such as a server that does not answer.
function describe(error) {
  if (typeof error.code !== "number") return error.message; // not of a call
  const [name] = error.metadata.get("nuclei-error");
  return `${name ?? `gRPC status ${error.code}`}: ${error.details}`;
}

// Row-major Uint32Array [height, width]: 0 is background, 1 to count are the nuclei.
function decode({ encoding, height, width, data }) {
  if (encoding !== "ENCODING_ZSTD_UINT32") {
    throw new Error("the encoding of the label image is not known");
  }
  const bytes = decompress(data);
  if (bytes.length !== height * width * 4) throw new Error("the label image is damaged");
  // Little-endian, as every computer that runs Node today.
  return new Uint32Array(bytes.buffer, bytes.byteOffset, height * width);
}

// What was guessed or is doubtful about the frame.
function warn(reply) {
  for (const warning of reply.warnings) console.error(`warning: ${warning}`);
}

async function segment(client, [path], options) {
  const request = {
    // The bytes of a PNG, JPEG or TIFF file. (A camera's pixels go into `raw` instead.)
    frame: { encoded: readFileSync(path) },
    model: options.model,
    outputs: ["OUTPUT_CENTROIDS", "OUTPUT_LABELS"],
  };
  const deadline = Date.now() + options.timeout_ms;
  const call = promisify(client.Segment).bind(client);
  const reply = await call(request, metadata(options), { deadline });

  const { nuclei, labels } = reply;
  warn(reply);
  console.log(`${reply.model} version ${reply.model_version}: ${reply.count} nuclei`);
  for (const [i, label] of nuclei.label.slice(0, 3).entries()) {
    console.log(`nucleus ${label} at x ${nuclei.centroid_x_px[i]}, y ${nuclei.centroid_y_px[i]}`);
  }
  const distinct = new Set(decode(labels));
  distinct.delete(0);
  console.log(`label image ${labels.height} x ${labels.width}: ${distinct.size} labels`);
  return true;
}

function* messages(paths, options) {
  yield { settings: { overflow: OVERFLOW_POLICIES[options.overflow] } };
  for (const path of paths) {
    const request = {
      frame: { encoded: readFileSync(path) },
      model: options.model,
      outputs: ["OUTPUT_COUNT"],
    };
    yield { frame: { request, timeout_ms: options.timeout_ms } };
  }
}

// Whether every frame was segmented, or skipped as the overflow policy says.
async function stream(client, paths, options) {
  const call = client.SegmentStream(metadata(options));
  // `pipe` sends while answers arrive, and waits while the server holds the stream back.
  const sending = Readable.from(messages(paths, options));
  sending.on("error", (error) => call.destroy(error)).pipe(call);

  let complete = true;
  for await (const answer of call) {
    const { sequence, outcome } = answer;
    if (outcome === "result") {
      warn(answer.result);
      console.log(`frame ${sequence}: ${answer.result.count} nuclei`);
    } else if (outcome === "skipped") {
      console.log(`frame ${sequence}: skipped, ${answer.skipped.reason}`);
    } else {
      console.log(`frame ${sequence}: ${answer.error.name}: ${answer.error.message}`);
      complete = false;
    }
  }
  return complete;
}

function parse() {
  const text = (value) => ({ type: "string", default: value });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      address: text("localhost:50051"),
      token: text(""),
      model: text(""),
      timeout: text("30"),
      overflow: text("block"),
    },
  });
  const [command, ...paths] = positionals;
  const run = { segment, stream }[command];
  const options = { ...values, timeout_ms: Math.round(Number(values.timeout) * 1e3) };
  if (!run || paths.length === 0 || !(options.timeout_ms > 0)) throw new Error("usage");
  if (!(options.overflow in OVERFLOW_POLICIES)) throw new Error("usage");
  return { run, paths, options };
}

async function main() {
  let parsed;
  try {
    parsed = parse();
  } catch {
    console.error(USAGE);
    return 2;
  }
  const { run, paths, options } = parsed;
  const client = connect(options.address);
  try {
    return (await run(client, paths, options)) ? 0 : 1;
  } catch (error) {
    console.error(describe(error));
    return 1;
  } finally {
    client.close();
  }
}

process.exitCode = await main();
