// build.mjs WIT OUT: bundles app.js and makes a component of it. WIT is a folder with the package wasi:http.
// To be started with `node --import ./shim.mjs build.mjs`.
import { writeFile } from 'node:fs/promises'
import { componentize } from '@bytecodealliance/componentize-js'
import { build } from 'esbuild'

const [wit, out] = process.argv.slice(2)
await build({
  entryPoints: ['app.js'],
  bundle: true,
  format: 'esm',
  platform: 'neutral',
  mainFields: ['module', 'main'],
  minify: true,
  outfile: 'target/app.js'
})
const { component } = await componentize({ sourcePath: 'target/app.js', witPath: wit, worldName: 'server' })
await writeFile(out, component)
