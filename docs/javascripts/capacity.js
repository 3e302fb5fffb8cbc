// The calculator of capacity.md. Its formulas and defaults are those of the page.

"use strict";

const INPUTS = {
  chunks: { label: "chunks", value: 1e6 },
  chunksPerDocument: { label: "chunks of a document", value: 5 },
  dimensions: { label: "dimensions of a vector", value: 384 },
  sparseBytes: { label: "bytes of a sparse vector", value: 1100 },
  payloadBytes: { label: "bytes of a payload", value: 1060 },
  copies: { label: "copies (replication factor)", value: 1 },
  storage: { label: "vectors", options: ["memory", "disk", "scalar on disk", "binary on disk"] },
  machineGigabytes: { label: "memory of a Qdrant machine, GB", value: 64 },
  waiting: { label: "documents that wait at most", value: 1e5 },
  waitingBytes: { label: "text sent with a document, bytes", value: 0 },
  coreRate: { label: "chunks/s of a core", value: 35 },
  gpuRate: { label: "chunks/s of a GPU", value: 4700 },
  pipelineRate: { label: "chunks/s of a core beside a GPU", value: 600 },
  hours: { label: "hours that the first run may take", value: 24 },
  corePrice: { label: "price of a core-hour", value: 0.04 },
  gpuPrice: { label: "price of a GPU-hour", value: 3 },
  memoryPrice: { label: "price of a GB of memory for a month", value: 4 },
  diskPrice: { label: "price of a GB of disk for a month", value: 0.1 },
};

const OVERHEAD = 1.5; // Qdrant's, for its indexes and for what its optimizers write
const GRAPH_BYTES = 200; // links and ids of a point
const LEDGER_BYTES = 830; // an entry
const JOB_BYTES = 255; // a waiting file
const TEXT_JOB_BYTES = 1035; // a waiting document that was sent by itself, beside its text
const USABLE = 0.8; // of a machine's memory
const SHARDS_A_MACHINE = 2;
const COPY_BYTES = { memory: 0, disk: 0, "scalar on disk": 1, "binary on disk": 1 / 8 };

function capacity(of) {
  const documents = of.chunks / of.chunksPerDocument;
  const vectors = 4 * of.dimensions + of.sparseBytes;
  const compressed = of.dimensions * COPY_BYTES[of.storage];
  const resident = of.storage === "memory" ? vectors : compressed + GRAPH_BYTES;
  const stored = vectors + of.payloadBytes + compressed + LEDGER_BYTES / of.chunksPerDocument;
  const memory = of.chunks * resident * OVERHEAD * of.copies;
  const disk = of.chunks * stored * OVERHEAD * of.copies;
  const machines = Math.max(of.copies, Math.ceil(memory / (of.machineGigabytes * 1e9 * USABLE)));
  const coreHours = of.chunks / of.coreRate / 3600;
  const gpuHours = of.chunks / of.gpuRate / 3600;
  const besideHours = of.chunks / of.pipelineRate / 3600;
  return {
    documents,
    memory,
    disk,
    machines,
    shards: machines > 1 ? machines * SHARDS_A_MACHINE : 1,
    redis: of.waiting * (of.waitingBytes ? of.waitingBytes + TEXT_JOB_BYTES : JOB_BYTES),
    coreHours,
    cores: Math.ceil(coreHours / of.hours),
    gpuHours,
    gpus: Math.ceil(gpuHours / of.hours),
    coresBesideGpus: Math.ceil(besideHours / of.hours),
    coreMoney: coreHours * of.corePrice,
    gpuMoney: gpuHours * of.gpuPrice + besideHours * of.corePrice,
    monthlyMoney: (memory * of.memoryPrice + disk * of.diskPrice) / 1e9,
  };
}

const round = (number, digits) => Number(number.toPrecision(digits)).toLocaleString("en");
const bytes = (number) => {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(number, 1)) / 3), units.length - 1);
  return `${round(number / 1000 ** power, 2)} ${units[power]}`;
};
const count = (number) => round(number, 2);

const OUTPUTS = {
  documents: ["documents", count],
  redis: ["Redis, memory for what waits", bytes],
  memory: ["Qdrant, memory", bytes],
  disk: ["Qdrant, disk", bytes],
  machines: ["Qdrant machines", count],
  shards: ["shards", count],
  coreHours: ["first run: core-hours", count],
  cores: ["cores to be done in time", count],
  gpuHours: ["or GPU-hours", count],
  gpus: ["GPUs to be done in time", count],
  coresBesideGpus: ["cores beside them", count],
  coreMoney: ["price of the first run on cores", count],
  gpuMoney: ["price of the first run on GPUs", count],
  monthlyMoney: ["price of Qdrant for a month", count],
};

function field(name, input) {
  const control = document.createElement(input.options ? "select" : "input");
  if (input.options) {
    for (const option of input.options) control.add(new Option(option));
  } else {
    control.type = "number";
    control.min = "0";
    control.step = "any";
    control.value = input.value;
  }
  control.name = name;
  control.style.cssText = "border: 1px solid; font: inherit; padding: 0 0.4em; width: 11em";
  const label = document.createElement("label");
  label.style.cssText = "display: block; margin: 0.3em 0";
  label.append(control, ` ${input.label}`);
  return label;
}

function show(form, table) {
  const of = {};
  for (const [name, input] of Object.entries(INPUTS)) {
    const value = form.elements.namedItem(name).value;
    of[name] = input.options ? value : Number(value);
  }
  const result = capacity(of);
  table.replaceChildren();
  for (const [name, [label, format]] of Object.entries(OUTPUTS)) {
    const row = table.insertRow();
    row.insertCell().textContent = label;
    const cell = row.insertCell();
    cell.dataset.output = name;
    cell.textContent = Number.isFinite(result[name]) ? format(result[name]) : "–";
  }
}

const place = document.getElementById("capacity-calculator");
const form = document.createElement("form");
const table = document.createElement("table");
form.append(...Object.entries(INPUTS).map(([name, input]) => field(name, input)));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => show(form, table));
place.replaceChildren(form, table);
show(form, table);
