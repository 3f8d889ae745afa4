// What llama.cpp makes of a model: node greedy.mjs MODEL COUNT ID,ID,... TEXT prints two lines: TEXT as
// tokens, and COUNT greedy tokens after the given ids. Run it where node-llama-cpp is installed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/here.js"));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(require.resolve("node-llama-cpp")));

const [path, count, ids, text] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({
    contextSize: 512,
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32", // as in llm_stream
    experimentalKvCacheValueType: "F32"
});
const found = [];
const prompt = ids.split(",").map(Number);
for await (const token of context.getSequence().evaluate(prompt, { temperature: 0 })) {
    found.push(token);
    if (found.length >= Number(count)) break;
}
console.log([model.tokens.bos, ...model.tokenize(text, false)].join(" "));
console.log(found.join(" "));
await llama.dispose();
