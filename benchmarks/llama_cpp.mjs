// What llama.cpp makes of a GGUF file, through its prebuilt binaries of the npm package node-llama-cpp.
//
//   npm install --ignore-scripts --prefix DIR node-llama-cpp
//   node benchmarks/llama_cpp.mjs DIR model.gguf request.json > answer.json
//
// The request holds blocks of token ids, texts, and how many tokens to continue each block by; the answer holds the
// sum of the losses of each block's tokens after the first, the logits after the last token of the first block, the
// greedy continuations (the cache in use), and the ids of each text.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [packages, file, request] = process.argv.slice(2);
const entry = path.resolve(packages, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const {blocks, texts, newTokens} = JSON.parse(fs.readFileSync(request, "utf8"));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(file), gpuLayers: 0});
const context = await model.createContext({contextSize: 256, batchSize: 256, threads: 1, sequences: 1});
const sequence = context.getSequence();

/** log of the sum of the exponentials of all logits. */
function normalizer(logits) {
    const values = [...logits.values()];
    const largest = Math.max(...values);
    return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

const losses = [];
const continuations = [];
let lastLogits = [];
for (const [number, block] of blocks.entries()) {
    await sequence.clearHistory();
    const asked = block.map((token) => [token, {generateNext: {logits: true}}]);
    const found = (await sequence.controlledEvaluate(asked)).map((one) => one.next.logits);
    losses.push(block.slice(1).reduce((sum, token, i) => sum + normalizer(found[i]) - found[i].get(token), 0));
    if (number === 0)
        lastLogits = [...found.at(-1).entries()].sort(([a], [b]) => a - b).map(([, value]) => value);
    let logits = found.at(-1);
    const continuation = [];
    for (let i = 0; i < newTokens; i++) {
        const next = [...logits.entries()].reduce((best, pair) => (pair[1] > best[1] ? pair : best))[0];
        continuation.push(next);
        logits = (await sequence.controlledEvaluate([[next, {generateNext: {logits: true}}]]))[0].next.logits;
    }
    continuations.push(continuation);
}
process.stdout.write(JSON.stringify({
    release: llama.llamaCppRelease.release, losses, continuations, lastLogits,
    tokens: texts.map((text) => model.tokenize(text, false)),
}));
process.exit(0);
