// What llama.cpp makes of a GGUF file, through the prebuilt binaries of the npm package node-llama-cpp.
//
//   npm install --ignore-scripts --prefix DIR node-llama-cpp
//   node benchmarks/language/llama_cpp.mjs DIR model.gguf request.json answer.json
//
// The request holds blocks of token ids, texts, and how many tokens to continue each block by; the answer holds the
// sum of the losses of each block's tokens after the first, the logits after the last token of the first block, the
// greedy continuations (with the cache), and the ids of each text.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [packages, file, request, answer] = process.argv.slice(2);
const entry = path.resolve(packages, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const {blocks, texts, newTokens} = JSON.parse(fs.readFileSync(request, "utf8"));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(file), gpuLayers: 0});
const context = await model.createContext({contextSize: 256, batchSize: 256, threads: 1, sequences: 1});
const sequence = context.getSequence();

/** Token and logit of the largest. */
const largest = (logits) => [...logits].reduce((best, pair) => (pair[1] > best[1] ? pair : best));

/** -log of the probability of a token. */
function loss(logits, token) {
    const top = largest(logits)[1];
    let sum = 0;
    for (const value of logits.values())
        sum += Math.exp(value - top);
    return top + Math.log(sum) - logits.get(token);
}

/** Logits after each of some tokens. */
async function logitsAfter(tokens) {
    const asked = tokens.map((token) => [token, {generateNext: {logits: true}}]);
    return (await sequence.controlledEvaluate(asked)).map((one) => one.next.logits);
}

const losses = [];
const continuations = [];
let lastLogits = [];
for (const [number, block] of blocks.entries()) {
    await sequence.clearHistory();
    const found = await logitsAfter(block);
    losses.push(block.slice(1).reduce((sum, token, i) => sum + loss(found[i], token), 0));
    let last = found.at(-1);
    if (number === 0)
        lastLogits = [...last].sort(([a], [b]) => a - b).map(([, value]) => value);
    const continuation = [];
    for (let i = 0; i < newTokens; i++) {
        continuation.push(largest(last)[0]);
        last = (await logitsAfter(continuation.slice(-1)))[0];
    }
    continuations.push(continuation);
}
fs.writeFileSync(answer, JSON.stringify({
    release: llama.llamaCppRelease.release, losses, continuations, lastLogits,
    tokens: texts.map((text) => model.tokenize(text, false)),
}));
process.exit(0);
