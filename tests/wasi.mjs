// wasi.mjs - runs a WebAssembly program of WASI: node tests/wasi.mjs program.wasm [arguments]. It
// sees this folder and TMPDIR.
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';

const temporary = process.env.TMPDIR || '/tmp';
const wasi = new WASI({
    version: 'preview1',
    args: process.argv.slice(2),
    env: process.env,
    preopens: { '.': '.', [temporary]: temporary },
    returnOnExit: true,
});
const module = await WebAssembly.compile(await readFile(process.argv[2]));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
