/* An extension module that calls Expunge's kernels from C: no linking, one header, any strides.
 *
 *     cc -shared -fPIC -I "$(python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" \
 *         -I "$(python -c 'import expunge; print(expunge.get_include())')" -o norms_in_c.so norms_in_c.c
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "expunge.h"

static const expunge_api *expunge; /* taken once, when the module is imported */

/* Reads `object` as an array of three axes of float32 or float64; strides become elements. */
static int take(PyObject *object, Py_buffer *view, int64_t strides[3], int32_t *dtype) {
  if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) return -1;
  const int is_float = view->format[0] == 'f' && view->format[1] == '\0';
  const int is_double = view->format[0] == 'd' && view->format[1] == '\0';
  if (view->ndim != 3 || !(is_float || is_double)) {
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_TypeError, "arrays must have three axes, and dtype float32 or float64");
    return -1;
  }
  for (int axis = 0; axis < 3; ++axis) strides[axis] = view->strides[axis] / view->itemsize;
  *dtype = is_float ? EXPUNGE_FLOAT32 : EXPUNGE_FLOAT64;
  return 0;
}

/* linear(activations, output_grads, threads) -> list of float: gradient norms of a linear layer with bias. */
static PyObject *linear(PyObject *self, PyObject *args) {
  (void)self;
  PyObject *activations, *output_grads, *result = NULL;
  int threads, status;
  if (!PyArg_ParseTuple(args, "OOi", &activations, &output_grads, &threads)) return NULL;
  Py_buffer a, g;
  int64_t a_strides[3], g_strides[3];
  int32_t a_dtype, g_dtype;
  if (take(activations, &a, a_strides, &a_dtype) != 0) return NULL;
  if (take(output_grads, &g, g_strides, &g_dtype) != 0) {
    PyBuffer_Release(&a);
    return NULL;
  }
  double *norms = PyMem_Calloc((size_t)a.shape[0] + 1, sizeof(double));
  if (norms == NULL) {
    PyErr_NoMemory();
  } else if (a_dtype != g_dtype || a.shape[0] != g.shape[0] || a.shape[1] != g.shape[1]) {
    PyErr_SetString(PyExc_ValueError, "both arrays must have the same dtype, examples and positions");
  } else {
    const expunge_linear_grad_norms call = {
        .size = sizeof call,
        .dtype = a_dtype,
        .threads = threads,
        .bias = 1,
        .examples = a.shape[0],
        .positions = a.shape[1],
        .d_in = a.shape[2],
        .d_out = g.shape[2],
        .activations = {a.buf, a_strides},
        .output_grads = {g.buf, g_strides},
        .out = norms,
    };
    Py_BEGIN_ALLOW_THREADS /* no function of the table needs the GIL */
    status = expunge->linear_grad_norms(&call);
    Py_END_ALLOW_THREADS
    if (status == EXPUNGE_OUT_OF_MEMORY) {
      PyErr_NoMemory();
    } else if (status != EXPUNGE_OK) {
      PyErr_SetString(PyExc_ValueError, expunge->last_error());
    } else if ((result = PyList_New(a.shape[0])) != NULL) {
      for (Py_ssize_t i = 0; i < a.shape[0]; ++i) {
        PyObject *norm = PyFloat_FromDouble(norms[i]);
        if (norm == NULL) {
          Py_CLEAR(result);
          break;
        }
        PyList_SET_ITEM(result, i, norm);
      }
    }
  }
  PyMem_Free(norms);
  PyBuffer_Release(&a);
  PyBuffer_Release(&g);
  return result;
}

static PyMethodDef methods[] = {
    {"linear", linear, METH_VARARGS, "Gradient norms of a linear layer with bias."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "norms_in_c", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_norms_in_c(void) {
  expunge = expunge_import(); /* the versions of header and kernels are compared here */
  return expunge == NULL ? NULL : PyModule_Create(&definition);
}
