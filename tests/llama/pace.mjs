// How fast llama.cpp decodes: node pace.mjs MODEL COUNT WARM ID,ID,... THREADS prints the greedy tokens
// after the given ids, and tokens per second without the first WARM. Run it where node-llama-cpp is
// installed. The context is small, so that nearly all memory is there for the weights.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/here.js"));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(require.resolve("node-llama-cpp")));

const [path, count, warm, ids, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path, useMmap: true });
const context = await model.createContext({
    contextSize: 64,
    batchSize: 64,
    threads: Number(threads),
    flashAttention: false,
    experimentalKvCacheKeyType: "F32", // as in llm_stream
    experimentalKvCacheValueType: "F32"
});
const found = [], at = [];
const prompt = ids.split(",").map(Number);
for await (const token of context.getSequence().evaluate(prompt, { temperature: 0 })) {
    found.push(token);
    at.push(performance.now());
    if (found.length >= Number(count)) break;
}
const steady = at.slice(Number(warm) - 1);
console.log(found.join(" "));
console.log((1000 * (steady.length - 1)) / (steady.at(-1) - steady[0]));
await llama.dispose();
