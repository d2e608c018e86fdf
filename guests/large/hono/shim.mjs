// The tool is itself a component, and sees no file unless its host is told so.
import { _setPreopens } from '@bytecodealliance/preview2-shim/filesystem'

_setPreopens({ '/': '/' })
